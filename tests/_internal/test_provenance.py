from moleflow_pl._internal.provenance import hardware, versions


def test_versions_and_hardware_are_strings_by_name() -> None:
    assert versions()["torch"].split("+")[0].count(".") == 2
    for found in (versions(), hardware()):
        assert all(isinstance(value, str) and value for value in found.values())
    assert {"system", "CPU cores"} <= set(hardware())
