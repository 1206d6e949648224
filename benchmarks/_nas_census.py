"""UCI Census-Income (KDD): its columns, and which of them each of its two usual tasks may see.

Dua and Graff, UCI Machine Learning Repository. The file has no header; a quarter of its rows repeat a feature vector,
so split it by `distinct`. The instance weight is no feature, both labels' columns are inputs of neither task, and the
marital task may not see the columns of tax filing and household, which give it away.
"""

from pathlib import Path
from typing import Literal

from nas.readers import Source
from nas.schema import Field, Head, Schema

COLUMNS = (
    "age", "class_of_worker", "industry_code", "occupation_code", "education", "wage_per_hour", "enrolled_in_education",
    "marital_status", "major_industry", "major_occupation", "race", "hispanic_origin", "sex", "union_member",
    "reason_for_unemployment", "employment_status", "capital_gains", "capital_losses", "dividends", "tax_filer_status",
    "previous_region", "previous_state", "household_status", "household_summary", "instance_weight",
    "migration_msa", "migration_region", "migration_within_region", "same_house_a_year_ago", "migration_sunbelt",
    "employer_size", "parents_present", "father_born", "mother_born", "self_born", "citizenship", "self_employed",
    "veterans_questionnaire", "veterans_benefits", "weeks_worked", "year", "income",
)  # fmt: skip
DENSE = ("age", "wage_per_hour", "capital_gains", "capital_losses", "dividends", "employer_size", "weeks_worked")
SKEWED = ("wage_per_hour", "capital_gains", "capital_losses", "dividends")
TELLTALE = ("tax_filer_status", "household_status", "household_summary")
LABELS = {"income": ("income", "50000+."), "marital": ("marital_status", "Never married")}
Task = Literal["income", "marital", "both"]


def census(task: Task) -> Schema:
    """The schema of one task, or of both heads together."""
    heads = tuple(LABELS) if task == "both" else (task,)
    drop = {"instance_weight", "income", "marital_status"} | (set() if task == "income" else set(TELLTALE))
    return Schema(
        fields=tuple(_field(name) for name in COLUMNS if name not in drop),
        heads=tuple(Head(name=name, label=LABELS[name][0], positive=LABELS[name][1]) for name in heads),
        drop=tuple(sorted(drop)),
        missing=("",),  # `?` and `Not in universe` are answers
    )


def source(folder: Path) -> Source:
    """The file in a folder."""
    return Source("csv", (str(folder / "census-income.test.gz"),), header=COLUMNS)


def _field(name: str) -> Field:
    if name in DENSE:
        return Field(name=name, kind="dense", transform="log" if name in SKEWED else "standard")
    return Field(name=name, kind="categorical", min_count=5)
