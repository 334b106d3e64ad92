from moleflow_pl._internal import result_names


def test_no_two_results_have_the_same_name() -> None:
    names = [value for key, value in vars(result_names).items() if key.isupper()]
    assert len(names) == len(set(names)) == 13
