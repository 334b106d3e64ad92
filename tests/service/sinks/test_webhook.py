"""A webhook, against a real server."""

import pytest

from moleflow_pl.errors import ConfigError
from moleflow_pl.service.sinks.base import RefusedError
from moleflow_pl.service.sinks.webhook import WebhookSink
from tests.helpers.hook import web_hook


def test_a_message_is_posted_with_the_login() -> None:
    with web_hook() as hook:
        sink = WebhookSink(hook.url.replace("//", "//me:pass@"))
        sink.deliver({"id": 1})
        sink.close()
    assert (hook.taken, hook.logins) == ([{"id": 1}], ["Basic bWU6cGFzcw=="])


@pytest.mark.parametrize(
    ("status", "error"),
    [(422, RefusedError), (400, RefusedError), (401, OSError), (404, OSError), (503, OSError),
     (302, OSError)],
)  # fmt: skip
def test_only_a_refusal_of_the_message_itself_ends_its_tries(
    status: int, error: type[Exception]
) -> None:
    with web_hook(lambda number: status) as hook, pytest.raises(error, match=str(status)):
        WebhookSink(hook.url).deliver({})


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match="webhook:https://HOST/PATH"):
        WebhookSink("ftp://x")
