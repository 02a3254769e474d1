"""The operator's token, and what only looks like it."""

import pytest

from guards.auth.operator_token import is_operator

SECRET = "a-token-of-16-or-more"


def test_the_secret_as_a_bearer_token_is_the_operators():
    assert is_operator(f"Bearer {SECRET}", SECRET)
    assert is_operator(f"bearer {SECRET}", SECRET)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        SECRET,
        f"Basic {SECRET}",
        f"Bearer {SECRET[:-1]}",
        f"Bearer {SECRET}x",
        f"Bearer {SECRET} {SECRET}",
        "Bearer käse",
    ],
)
def test_nothing_else_is(authorization):
    assert not is_operator(authorization, SECRET)


@pytest.mark.parametrize("authorization", [None, "", "Bearer ", "Bearer x"])
def test_a_secret_that_is_not_set_is_nobodys(authorization):
    assert not is_operator(authorization, "")
