"""The cohere SDK that LangChain and LlamaIndex still ask for: what holds for the newest holds."""

import cohere

from clients.test_cohere import *  # noqa: F403 - the same tests, collected again here


def test_it_is_the_older_one() -> None:
    assert cohere.__version__.startswith("5.")
