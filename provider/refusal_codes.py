"""How providers name the faults that they refuse a request for: codes, and first words.

Each entry is one that its vendor documents or that was seen on the wire; the vendor stands beside
it where it is not OpenAI's or common to several.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal

Kind = Literal[
    "moderation",
    "context_length",
    "no_credit",
    "wrong_key",
    "no_permission",
    "unknown_model",
    "wrong_url",
    "refused_parameter",
    "bad_tool_call",
    "refused",
]

CODES: Final[Mapping[Kind, frozenset[str]]] = {
    "moderation": frozenset(
        (
            "content_filter",  # OpenAI, Azure, Moonshot
            "content_policy_violation",
            "responsibleaipolicyviolation",  # Azure
            "invalid_prompt",  # OpenAI's reasoning models: flagged by the usage policy
            "moderation_blocked",
            "content_moderation",
            "data_inspection_failed",  # Alibaba
            "datainspectionfailed",
            "sensitivecontentdetected",  # Volcengine
            "inputtextsensitivecontentdetected",
            "outputtextsensitivecontentdetected",
            "prohibited_content",  # Gemini
            "1301",  # Zhipu
            "1026",  # MiniMax: the prompt
            "1027",  # MiniMax: the answer
        )
    ),
    "context_length": frozenset(
        (
            "context_length_exceeded",
            "exceed_context_size_error",  # llama.cpp
            "1261",  # Zhipu
            "1039",  # MiniMax
        )
    ),
    "no_credit": frozenset(
        (
            "insufficient_quota",
            "exceeded_current_quota_error",  # Moonshot
            "insufficient_balance",
            "insufficient_credits",
            "insufficient_funds",
            "billing_hard_limit_reached",
            "billing_not_active",
            "billing_error",  # Anthropic
            "billing_disabled",  # Google
            "arrearage",  # Alibaba
            "accountoverdueerror",  # Volcengine
            "1113",  # Zhipu
            "1008",  # MiniMax
        )
    ),
    "wrong_key": frozenset(
        (
            "invalid_api_key",
            "incorrect_api_key",
            "invalidapikey",  # Alibaba
            "api_key_invalid",  # Gemini
            "api_key_expired",
            "expired_api_key",
            "access_token_expired",
            "authentication_error",
            "invalid_authentication_error",
            "unauthenticated",
            "account_deactivated",
            "1004",  # MiniMax
            "2049",  # MiniMax
        )
    ),
    "no_permission": frozenset(
        (
            "permission_error",
            "permission_denied",
            "api_key_service_blocked",  # Google
            "unsupported_country_region_territory",
        )
    ),
    "unknown_model": frozenset(
        (
            "model_not_found",
            "model_decommissioned",
            "invalid_model",
            "deploymentnotfound",  # Azure
            "modelnotfound",
            "1211",  # Zhipu
        )
    ),
    "bad_tool_call": frozenset(("tool_use_failed",)),  # Groq
}

# Faults for which these providers have no code, by the first words of their message.
_WORDS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "moderation": (
        r"content exists risk",  # DeepSeek
        r"content violates usage guidelines",  # xAI
        r"the response was filtered",  # Azure
        r".{1,80} requires moderation",  # OpenRouter
    ),
    "context_length": (
        # OpenAI, vLLM, DeepSeek; xAI; OpenRouter
        r"th(is model|is endpoint|e model)'s maximum (context|prompt) length",
        r"(the )?prompt is too long",  # Anthropic, Fireworks
        r"input is too long for",  # Bedrock
        r"input validation error: `?inputs`? (tokens|must have less)",  # TGI
        r"the input token count",  # Gemini
        r"the input \(\d+ tokens\) is longer than",  # SGLang
        r"input length \(\d+ tokens\) exceeds",  # SGLang
        r"the decoder prompt \(length \d+\) is longer",  # vLLM
        r"prompt contains \d+ tokens",  # Mistral
        r"too many tokens",  # Cohere
        r"request too large for model",  # Groq
    ),
    "no_credit": (
        r"your credit balance is too low",  # Anthropic
        r"your newly created team doesn't have any credits",  # xAI
        r"your team .{1,80} has either used all available credits",  # xAI
        r"insufficient (balance|credits?|funds)",  # DeepSeek, OpenRouter
        r"key limit exceeded",  # OpenRouter
    ),
    "wrong_key": (
        r"incorrect api key",  # xAI
        r"api key not valid",  # Gemini
        r"(missing or )?invalid (api key|authorization)",
    ),
    "unknown_model": (
        r"model not exist",  # DeepSeek
        r"invalid model",  # Mistral, Perplexity
        r"\S{1,200} is not a valid model",  # OpenRouter
        r"no endpoints found for",  # OpenRouter
    ),
    "wrong_url": (r"invalid url", r"404 page not found", r"not found$"),
}
PHRASES: Final[Mapping[Kind, re.Pattern[str]]] = {
    kind: re.compile("|".join(words), re.IGNORECASE) for kind, words in _WORDS.items()
}
