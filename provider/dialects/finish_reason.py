"""Why an answer ended: a provider's word for it becomes one of OpenAI's, or a failure.

Every vendor's gateway lets its own words through; they are compared without regard to case.
"""

from typing import Final

from errors import CallError

_OURS: Final = frozenset(("stop", "length", "content_filter", "tool_calls", "function_call"))
_FILTERED: Final = frozenset(
    (
        "content_filter",  # Gemini adds what it found: "content_filter: PROHIBITED_CONTENT"
        "content-filter",
        "safety",  # Gemini, and the next four
        "prohibited_content",
        "blocklist",
        "spii",
        "recitation",
        "refusal",  # Anthropic
        "sensitive",  # Zhipu
        "guardrail_intervened",  # Bedrock
    )
)
# The answer could not be finished. Whether that speaks against the provider's health: a model that
# cannot write the arguments of a tool is as well as it was before.
_BROKEN: Final = {
    "abort": True,  # vLLM, SGLang
    "aborted": True,
    "cancelled": True,
    "canceled": True,
    "error": True,  # vLLM, OpenRouter
    "failed": True,
    "internal_error": True,
    "server_error": True,
    "network_error": True,  # Zhipu
    "timeout": True,
    "insufficient_system_resource": True,  # DeepSeek
    "malformed_function_call": False,  # Gemini, and the next three
    "malformed_response": False,
    "unexpected_tool_call": False,
    "too_many_tool_calls": False,
}


def finish_reason(word: str) -> str | None:
    """OpenAI's word for this one; `other` for any that is not known, as it might be somebody's
    prompt; None where the answer has not ended.

    Raises:
        CallError: `provider_unavailable`, because the answer ended unfinished.
    """
    if not word or word in _OURS:
        return word or None
    name = word.partition(":")[0].strip().lower()
    if name in _BROKEN:
        raise CallError(
            "provider_unavailable", f"finish_{name}", transient=True, unhealthy=_BROKEN[name]
        )
    if name in _FILTERED:
        return "content_filter"
    return name if name in _OURS else "other"
