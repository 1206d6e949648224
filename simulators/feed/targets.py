"""What is known of a real short-video app: figures that the simulated feed is held to.

Source: KuaiRand (Gao et al. 2022, "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed
Videos", CIKM), CC BY-SA 4.0. Signals and return gaps: 1,436,609 impressions of KuaiRand-Pure (standard logs); hours,
days and pauses: 322,278,385 impressions of KuaiRand-27K; features: the user and video tables of KuaiRand-Pure. These
are counts compiled from its published tables, no records of it; what is derived from them stays under CC BY-SA 4.0.
"""

import numpy as np

from simulators.worlds import Floats

IMPRESSIONS = 1_436_609
SIGNALS = ("click", "long_view", "like", "comment", "follow", "forward", "hate")

# Impressions with both signals; the diagonal counts one signal alone.
TOGETHER: tuple[tuple[int, ...], ...] = (
    (660_342, 474_789, 22_421, 3_555, 1_371, 1_223, 320),
    (474_789, 476_724, 17_756, 3_230, 1_080, 942, 175),
    (22_421, 17_756, 26_546, 563, 662, 217, 11),
    (3_555, 3_230, 563, 3_657, 21, 23, 2),
    (1_371, 1_080, 662, 21, 1_543, 17, 1),
    (1_223, 942, 217, 23, 17, 1_382, 9),
    (320, 175, 11, 2, 1, 9, 710),
)

# Impressions and clicks by hour of the day.
HOURLY_IMPRESSIONS = (
    10_624_659,
    6_462_822,
    4_132_020,
    2_911_135,
    2_617_287,
    3_692_549,
    6_873_534,
    9_968_651,
    11_545_430,
    12_947_165,
    14_427_110,
    15_441_567,
    17_029_465,
    17_132_315,
    15_454_700,
    15_767_584,
    16_594_065,
    17_525_682,
    18_844_519,
    19_871_032,
    21_315_043,
    22_117_433,
    21_859_219,
    17_123_399,
)
HOURLY_CLICKS = (
    4_004_110,
    2_459_780,
    1_578_349,
    1_132_104,
    1_018_969,
    1_441_803,
    2_736_763,
    4_063_230,
    4_646_235,
    5_041_882,
    5_456_754,
    5_874_263,
    6_668_191,
    6_724_386,
    5_892_132,
    5_933_465,
    6_133_382,
    6_510_578,
    7_063_714,
    7_312_341,
    7_761_087,
    8_120_614,
    8_093_552,
    6_384_858,
)

# Impressions by day, 8 April 2022 (a Friday) to 8 May 2022; 30 April to 4 May are a national holiday.
FIRST_WEEKDAY = 4  # Monday is 0
HOLIDAYS = range(22, 27)  # positions
DAILY_IMPRESSIONS = (
    9_864_349,
    10_870_341,
    10_749_052,
    9_527_164,
    9_346_113,
    9_189_352,
    9_187_522,
    9_460_878,
    10_703_081,
    10_590_283,
    9_045_197,
    8_994_629,
    9_304_296,
    9_464_319,
    10_076_696,
    11_621_565,
    10_137_480,
    9_775_971,
    9_756_170,
    9_838_184,
    9_943_504,
    10_843_757,
    12_573_232,
    12_514_718,
    12_096_604,
    11_999_564,
    11_603_464,
    10_431_720,
    10_540_891,
    10_713_828,
    11_514_461,
)

# Pairs of consecutive active days of a user, by the days between them: 1, 2, ... 16.
RETURN_GAP_DAYS = (
    236_935,
    63_521,
    30_238,
    18_152,
    11_890,
    8_076,
    5_428,
    3_622,
    2_222,
    1_420,
    937,
    582,
    417,
    272,
    212,
    71,
)

# Videos inserted at random into the feed, and the clicks on them.
RANDOM_IMPRESSIONS, RANDOM_CLICKS = 1_186_059, 208_934

# Pauses between a user's consecutive impressions. Those below a second are within one answer of the recommender.
PAUSES = {
    "<1s": 266_750_346,
    "1-10s": 5_175_602,
    "10-60s": 17_753_904,
    "1-5min": 21_057_055,
    "5-30min": 7_444_288,
    "30-120min": 2_186_071,
    ">=120min": 1_883_834,
}

# Users by feature, each from its lowest to its highest value.
USERS: dict[str, dict[str, int]] = {
    "user_active_degree": {
        "day_new": 11,
        "2_14_day_new": 635,
        "30day_retention": 15,
        "single_low_active": 68,
        "low_active": 300,
        "middle_active": 2133,
        "high_active": 6158,
        "full_active": 17959,
    },
    "register_days_range": {
        "8-14": 1,
        "15-30": 145,
        "31-60": 381,
        "61-90": 394,
        "91-180": 1048,
        "181-365": 1778,
        "366-730": 3475,
        "730+": 20063,
    },
    "follow_user_num_range": {
        "0": 188,
        "(0,10]": 1739,
        "(10,50]": 4904,
        "(50,100]": 4004,
        "(100,150]": 2633,
        "(150,250]": 3490,
        "(250,500]": 4377,
        "500+": 5950,
    },
    "fans_user_num_range": {
        "0": 1157,
        "[1,10)": 5326,
        "[10,100)": 10467,
        "[100,1k)": 8664,
        "[1k,5k)": 1460,
        "[5k,1w)": 112,
        "[1w,10w)": 85,
        "[10w,100w)": 12,
        "[100w,1000w)": 2,
    },
    "is_video_author": {"0": 5009, "1": 22276},
}

# Videos by feature; `tag` is the first of a video's tags, those with fewer than 80 videos together.
VIDEOS: dict[str, dict[str, int]] = {
    "tag": {
        "39": 1437,
        "3": 732,
        "20": 675,
        "12": 606,
        "9": 418,
        "6": 378,
        "7": 340,
        "2": 289,
        "1": 254,
        "15": 245,
        "17": 220,
        "8": 177,
        "11": 175,
        "62": 161,
        "28": 145,
        "25": 136,
        "19": 96,
        "none": 96,
        "4": 90,
        "5": 87,
        "10": 87,
        "26": 82,
        "other": 657,
    },
    "video_type": {"NORMAL": 7506, "AD": 76, "UNKNOWN": 1},
    "upload_type": {
        "LongImport": 2925,
        "Web": 2416,
        "ShortImport": 917,
        "Kmovie": 879,
        "LongPicture": 143,
        "PictureSet": 73,
        "LongCamera": 64,
        "ShortCamera": 43,
        "other": 123,
    },
}
# Quantiles of a video's duration in seconds.
DURATION_QUANTILES_S = {
    0: 5.00,
    0.01: 7.44,
    0.05: 10.72,
    0.1: 14.58,
    0.25: 31.97,
    0.5: 81.24,
    0.75: 148.27,
    0.9: 237.90,
    0.95: 303.47,
    0.99: 510.07,
    1: 1177.72,
}


def real_together() -> Floats:
    """(7, 7) P(both signals) of an impression."""
    return np.array(TOGETHER) / IMPRESSIONS


def hourly_clicks() -> Floats:
    """(24,) click rate by hour: KuaiRand-27K's curve at KuaiRand-Pure's level."""
    shown, clicked = np.array(HOURLY_IMPRESSIONS), np.array(HOURLY_CLICKS)
    return np.asarray(clicked / shown * (shown.sum() / clicked.sum()) * real_together()[0, 0])


def weekly() -> Floats:
    """(7,) volume by weekday, Monday first, over its mean; without the holiday."""
    days = [d for d in range(len(DAILY_IMPRESSIONS)) if d not in HOLIDAYS]
    weekday = (np.array(days) + FIRST_WEEKDAY) % 7
    volume = np.array(DAILY_IMPRESSIONS)[days]
    mean = np.array([volume[weekday == w].mean() for w in range(7)])
    return np.asarray(mean / mean.mean())
