"""Which of llama.cpp's own server tests are ours to pass, and why each other is not. tests/foreign/test_llama_server.py
holds this page to the truth in both directions: what is not named here passes, what is named here fails.

Tests that download models (`slow`) are left out altogether.
"""

from __future__ import annotations

WORDS = "holds the words, or the number of tokens, of one small model of theirs"
TEMPLATE = "starts the server with another model's chat template; ours is the checkpoint's"
GRAMMAR = "answers are not held to a grammar yet"
NULL = "wants null as a stream's first content; OpenAI's API sends an empty text, and ExecuTorch's contract needs one"
FORM = "wants what only llama-server's own form of completions has, which is not OpenAI's"
CORS = "all web pages may ask a llama-server; ours wants --cors"
FETCH = "wants the server to fetch a picture from an address, or the model to see; the nugget is blind"
UNIFIED = "a place has its own room here, however little the others use of theirs"
METRICS = "wants a header of llama-server's own; the main names of its metrics are in /metrics"
TIMINGS = "wants timings in the answer; they are in /metrics"
FILES = "the server opens no files for its clients"
FIELD = "uses a field of llama-server's own, which ours refuses by name"

# File -> {test, or test[case]: why it fails here}. All other tests of these files pass.
FAILS: dict[str, dict[str, str]] = {
    "test_basic.py": {
        "test_server_multiple_addresses": "one server listens on one address",
        "test_server_props": "there is no /props",
        "test_server_models": "beside its alias, the model's own name is listed",
        "test_server_slots": "there is no /slots; 404 says so, not 501",
        "test_load_split_model": WORDS,
        "test_no_ui": "there is no web page yet",
        "test_server_model_aliases_and_tags": "models have no tags",
    },
    "test_tokenize.py": {"test_tokenize_with_bos": "Qwen3.5 has no token that begins a text"},
    "test_chat_completion.py": {
        "test_chat_completion": WORDS,
        "test_chat_completion_cached_tokens": WORDS,
        "test_chat_completion_stream": NULL,
        "test_chat_completion_with_openai_library": WORDS,
        "test_chat_template": TEMPLATE,
        "test_chat_template_assistant_prefill": TEMPLATE,
        "test_chat_template_continue_final_message_vllm_compat": TEMPLATE,
        "test_chat_template_continue_final_message_mutual_exclusion": TEMPLATE,
        "test_apply_chat_template": TEMPLATE,
        'test_completion_with_response_format[response_format0-6-"42"]': GRAMMAR,
        "test_completion_with_response_format[response_format1-10-[ -3000 ]]": GRAMMAR,
        'test_completion_with_response_format[response_format2-10-"foooooo"]': GRAMMAR,
        "test_completion_with_response_format[response_format3-10-(\\\\{|John)+]": GRAMMAR,
        "test_completion_with_json_schema": GRAMMAR,
        "test_completion_with_grammar": GRAMMAR,
        "test_invalid_chat_completion_req[messages7]": "Qwen3.5's template can write two answers in a row",
        "test_chat_completion_with_timings_per_token": FIELD,
        "test_logprobs_stream": NULL,
        "test_context_size_exceeded": "wants a type of llama-server's own; ours is OpenAI's, its code says what it is",
        "test_context_size_exceeded_stream": "as test_context_size_exceeded",
        "test_return_progress": FIELD,
        "test_chat_completions_token_count": "there is no /chat/completions/input_tokens; /tokenize takes messages",
        "test_verbose_debug": FIELD,
    },
    "test_completion.py": {
        "test_completion": WORDS,
        "test_completion_stream": FORM,
        "test_completion_with_openai_library": WORDS,
        "test_completion_stream_with_openai_library": WORDS,
        "test_json_prompt_no_mtmd": FORM,
        "test_completion_with_tokens_input": "mixes texts and token ids in one list of prompts; OpenAI's has one kind",
        "test_completion_unified[256-4-n_predict_vals0-expected_success0]": UNIFIED,
        "test_completion_unified[256-4-n_predict_vals3-expected_success3]": UNIFIED,
        "test_completion_response_fields": FORM,
        "test_n_probs": FORM,
        "test_n_probs_stream": FORM,
        "test_n_probs_post_sampling": FORM,
        "test_n_probs_post_backend_sampling": FORM,
        "test_logit_bias[False-False]": FORM,
        "test_logit_bias[False-True]": FORM,
        "test_logit_bias[True-False]": FORM,
        "test_completion_prompt_cache": WORDS,
    },
    "test_ctx_shift.py": {
        "test_ctx_shift_enabled": "a state of the delta rule cannot be shifted",
        "test_ctx_shift_disabled_short_prompt[-1-248-True]": "16 tokens where none are said, as OpenAI has it",
        "test_ctx_shift_disabled_long_prompt": "it is refused, in other words than theirs",
        "test_ctx_shift_disabled_stream": FIELD,
    },
    "test_ignore_eos.py": {
        "test_ignore_eos_populates_logit_bias": FORM,
        "test_ignore_eos_false_no_logit_bias": FORM,
    },
    "test_kv_keep_only_active.py": {
        "test_clear_and_restore": "reads llama-server's log",
        "test_disabled_with_flag": "reads llama-server's log",
    },
    "test_metrics.py": {
        "test_metrics_disabled": "/metrics is always there",
        "test_metrics_prometheus_format": METRICS,
        "test_metrics_prompt_processed_and_cached": METRICS,
        "test_metrics_predicted_total_matches_requests": METRICS,
        "test_metrics_generation_rate_excludes_first_token": TIMINGS,
        "test_metrics_timings_are_finite": TIMINGS,
        "test_metrics_timings_on_prompt_progress": FIELD,
        "test_metrics_embedding_prompt_is_counted": "there are no embeddings",
    },
    "test_security.py": {
        "test_access_static_assets_without_api_key": "there is no web page yet",
        "test_correct_api_key": FORM,
        "test_correct_api_key_anthropic_header": FORM,
        "test_cors_options": CORS,
        "test_cors_origins_localhost_rejects": "a page that may not ask gets 403, not 200 without a header",
        "test_cors_origins_defaults_to_localhost_with_tools_enabled": "the server runs no tools",
        "test_cors_proxy_only_forwards_explicit_proxy_headers": "the server is nobody's proxy",
        "test_local_media_file[../../../tools-file://mtmd/test-1.jpeg-True]": FILES,
        "test_local_media_file[../../../tools-file:////mtmd//test-1.jpeg-True]": FILES,
        "test_local_media_file[../../../tools-file://mtmd/notfound.jpeg-False]": "there is no such option",
        "test_local_media_file[../../../tools-file://../mtmd/test-1.jpeg-False]": "there is no such option",
    },
    "test_vision_api.py": {
        "test_models_supports_multimodal_capability": "wants ollama's list beside OpenAI's; ours says input_modalities",
        "test_v1_models_supports_multimodal_capability": "as test_models_supports_multimodal_capability",
        "test_vision_chat_completion[What is this:\\n-IMG_URL_0-True-(cat)+]": FETCH,
        "test_vision_chat_completion[What is this:\\n-IMG_BASE64_URI_0-True-(cat)+]": FETCH,
        "test_vision_chat_completion[What is this:\\n-IMG_URL_1-True-(frog)+]": FETCH,
        "test_vision_chat_completion[Test test\\n-IMG_URL_1-True-(frog)+]": FETCH,
        "test_vision_chat_completion_token_count": "there is no /chat/completions/input_tokens",
        "test_vision_completion[What is this: <__media__>\\n-IMG_BASE64_0-True-(cat)+|(automobile)+]": FETCH,
        "test_vision_completion[What is this: <__media__>\\n-IMG_BASE64_1-True-(frog)+]": FETCH,
        "test_vision_embeddings": "there are no embeddings",
        "test_vision_embeddings_oai_content": "there are no embeddings",
    },
    "test_tool_call.py": {"test_completion_without_tool_call_fast": TEMPLATE},
    "test_template.py": {
        "test_reasoning": TEMPLATE,
        "test_date_inside_prompt": TEMPLATE,
        "test_add_generation_prompt": TEMPLATE,
    },
}
# Files that are not run: the paths that all of their tests need, or the ServerProcess's settings, are not here.
PATHS: dict[str, str] = {
    "test_speculative.py": "https://huggingface.co/",
    "test_compat_anthropic.py": "/v1/messages",
    "test_compat_gcp.py": "/predict",
    "test_compat_oai_responses.py": "/responses",
    "test_embedding.py": "/v1/embeddings",
    "test_infill.py": "/infill",
    "test_lora.py": "/lora-adapters",
    "test_mcp_servers.py": "/tools",
    "test_proxy.py": "/cors-proxy",
    "test_rerank.py": "/rerank",
    "test_router.py": "/models/load",
    "test_sleep.py": "/props",
    "test_slot_save.py": "/slots",
    "test_stream.py": "/v1/stream",
    "test_tools_builtin.py": "/tools",
}
