from threadpoolctl import threadpool_info, threadpool_limits

from controller.shell.fingerprint import code_version, core_digest, fingerprint, single_threaded


def test_it_names_all_that_arithmetic_depends_on() -> None:
    found = fingerprint()
    assert set(found) == {
        *("machine", "simd", "blas", "blas_threads", "libc", "python", "numpy", "scipy", "code"),
    }
    assert all(found.values()), found
    assert found["blas"].count("openblas") >= 1
    assert fingerprint() == found


def test_blas_runs_on_one_thread_where_it_is_asked_to() -> None:
    with threadpool_limits(2, user_api="blas"):
        threads = fingerprint()["blas_threads"]
        with single_threaded():
            assert fingerprint()["blas_threads"] == "1"
            assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
        assert fingerprint()["blas_threads"] == threads


def test_the_code_is_named_by_its_sources() -> None:
    digest = core_digest()
    assert len(digest) == 64
    assert digest == core_digest()
    assert code_version()
