from moleflow_pl.cli.lightning import option


def test_options_of_the_command_line_are_found_in_both_spellings() -> None:
    assert option(["fit", "--ckpt_path", "a"], "--ckpt_path") == "a"
    assert option(["fit", "--ckpt_path=a"], "--ckpt_path") == "a"
    assert option(["fit", "--ckpt_path"], "--ckpt_path") is None
