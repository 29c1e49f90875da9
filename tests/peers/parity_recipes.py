"""What the parity fixtures are made of: words to train tokenizers on, conversations, chat templates, and one recipe per
checkpoint. `make_parity_fixtures.py` turns them into folders."""

# ---------------------------------------------------------------------------------------------------------------- texts

CORPUS = [
    "The tide turns at seven, and the ferry leaves the quay a little after that.",
    "A keeper lights the lamp, counts the ropes and writes the weather in the log.",
    "When the fog comes in, ring the bell slowly and wait for the answering horn.",
    "Bread wants flour, water, salt and time; the oven wants patience most of all.",
    "She asked about the boat, the harbour wall and the old rope on the second bollard.",
    "Tell me how deep the channel is, and what the wind will do before the morning.",
    "You are the keeper of a small harbour. Answer in plain words and keep to the log.",
    "What is the right knot for a wet line? Why does the buoy lean to the west today?",
    "Could you repeat that, please? I would like to know what to do with the lantern.",
    "Read 12 lines of the log, then 345 more, and check page 2026 against the chart.",
    "It's late; don't forget the kettle, we'll want tea. They've moored, I'm told.",
    "Nothing is lost that is written down: the hour, the height of the water, the name.",
]

TURNS_HARBOUR = [
    "When does the tide turn today?",
    "And the fog: what should I do\nif the bell is not heard?",
    "Write the name of the boat in the log, please.",
]
TURNS_BREAD = [
    "How long should the bread wait?",
    "It's wet still. More flour, or more time?",
    "  Then tell me about salt: 12 or 345 grains?  ",
]
TURNS_ACCENTS = [
    "The chart says 4 °C at the café quay.",
    "Is 'naïve' a good name for a boat?",
    "Draw an arrow → and a 🌊, please.",
]

# ------------------------------------------------------------------------------------------------------- chat templates

CHATML_DEFAULT_SYSTEM = """\
{#- A default system turn if there is none; the very last assistant message ends the text. -#}
{% set found = namespace(system=false) %}
{% for message in messages %}
    {% if message['role'] == 'system' %}
        {% set found.system = true %}
    {% endif %}
{% endfor %}
{% if not found.system %}
{{ '<|im_start|>system\\nYou are the keeper of a small harbour.<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {% if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role ' ~ message['role']) }}
    {% endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] }}
    {%- if message['role'] == 'assistant' and loop.last and not add_generation_prompt %}
        {{- '<|endoftext|>' }}
    {%- else %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

STALE_TEMPLATE = "{% for message in messages %}STALE {{ message['content'] }}{% endfor %}"

HEADER_BOS = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set rest = messages %}
{%- endif %}
{{- '<|head|>system<|body|>\\n\\nLog opened at the quay.\\n' ~ system ~ '<|done|>' }}
{%- if tools is defined and tools is not none %}
    {{- raise_exception('this template has no tools') }}
{%- endif %}
{%- for message in rest %}
    {{- '<|head|>' ~ message.role ~ '<|body|>\\n\\n' ~ message.content.strip() ~ '<|done|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|head|>assistant<|body|>\\n\\n' }}
{%- endif %}
"""

PLAIN = """\
{%- for message in messages -%}
{{ message['role'] | capitalize }}: {{ message['content'] }}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
Assistant:
{%- endif -%}
"""

# -------------------------------------------------------------------------------------------------------------- recipes

YARN_HUB = {
    "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32,
    "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.2079441541679836,
}
YARN_INFERRED = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 6.0, "beta_slow": 1.0,
}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

RECIPES = {
    "olmo3_yarn_legacy_5l": dict(
        about="olmo3, GQA, YaRN as the hub writes it (rope_theta + rope_scaling), rope_theta other than the default, "
        "default system turn, stops on two tokens of which config.json names one",
        written_by=4, family="olmo3", tokenizer="chatml_split", template=CHATML_DEFAULT_SYSTEM, template_in="tokenizer_config.json",
        system=None, user_turns=TURNS_HARBOUR, seed=1100, std=0.35,
        config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
                    vocab_size=320, max_position_embeddings=256, rms_norm_eps=1e-6, sliding_window=16, use_cache=False),
        rope=dict(theta=10000.0, scaling=YARN_HUB),
        config_eos=["<|endoftext|>"], generation_eos=["<|im_end|>", "<|endoftext|>"],
        generation={"do_sample": True, "temperature": 0.6, "top_p": 0.95},
    ),
    "olmo3_yarn_nested_8l": dict(
        about="olmo3, MHA, nested rope_parameters, attention factor left to be inferred, chat_template.jinja beside a stale "
        "template in tokenizer_config.json, stops early in at least one turn",
        written_by=5, family="olmo3", tokenizer="chatml_split", template=CHATML_DEFAULT_SYSTEM, template_in="chat_template.jinja",
        stale_template=True,
        system="Answer in plain words and keep to the log.", user_turns=TURNS_BREAD, seed=2100, std=0.35, wants_stop=True,
        config=dict(hidden_size=32, intermediate_size=48, num_hidden_layers=8, num_attention_heads=2, num_key_value_heads=2,
                    vocab_size=320, max_position_embeddings=256, rms_norm_eps=1e-6, sliding_window=16),
        rope=dict(theta=5000.0, scaling=YARN_INFERRED),
        config_eos=["<|im_end|>"], generation_eos=["<|endoftext|>"], generation={},
    ),
    "olmo3_plain_3l": dict(
        about="olmo3, one kv head, no rope scaling, layer_types other than the default pattern",
        written_by=4, family="olmo3", tokenizer="chatml", template=CHATML_DEFAULT_SYSTEM, template_in="chat_template.jinja",
        system="You keep the lamp.", user_turns=TURNS_HARBOUR, seed=3100, std=0.4,
        config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1,
                    vocab_size=320, max_position_embeddings=512, rms_norm_eps=1e-6, sliding_window=16,
                    layer_types=["full_attention", "sliding_attention", "full_attention"]),
        rope=dict(theta=500000.0, scaling=None),
        config_eos=["<|endoftext|>"], generation_eos=["<|im_end|>", "<|endoftext|>"], generation={},
    ),
    "olmo2_4l": dict(
        about="olmo2, MHA, flat rope_parameters, vocabulary padded beyond the tokenizer",
        written_by=5, family="olmo2", tokenizer="plain", template=PLAIN, template_in="tokenizer_config.json",
        system="You bake.", user_turns=TURNS_BREAD, seed=4100, std=0.4,
        config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
                    vocab_size=320, max_position_embeddings=512, rms_norm_eps=1e-6),
        rope=dict(theta=500000.0, scaling=None),
        config_eos=["<|endoftext|>"], generation_eos=["<|endoftext|>"], generation={},
    ),
    "llama_llama3_tied": dict(
        about="llama, GQA, llama3 rope scaling (legacy keys), tied embeddings, head_dim that is not hidden / heads, a tokenizer "
        "that adds a bos of its own when asked for special tokens",
        written_by=4, family="llama", tokenizer="header", template=HEADER_BOS, template_in="tokenizer_config.json",
        system=" Keep the log, and keep it short. ", user_turns=TURNS_BREAD, seed=5100, std=0.25, qk=0.5,
        config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                    head_dim=16, vocab_size=320, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True),
        rope=dict(theta=10000.0, scaling=LLAMA3),
        config_eos=["<|done|>"], generation_eos=["<|done|>", "<|endoftext|>"], generation={},
    ),
    "llama_bf16_sharded": dict(
        about="llama, MHA, weights in bf16 over two shards, untied, non-ASCII messages; the reference upcasts to f32",
        written_by=5, family="llama", tokenizer="header_bytes", template=HEADER_BOS, template_in="chat_template.jinja",
        system=None, user_turns=TURNS_ACCENTS, seed=6100, std=0.25, qk=0.5, bf16=True, shards=2,
        config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
                    vocab_size=384, max_position_embeddings=512, rms_norm_eps=1e-5),
        rope=dict(theta=10000.0, scaling=None),
        config_eos=["<|done|>"], generation_eos=["<|done|>"], generation={},
    ),
    "qwen3_tied_4l": dict(
        about="qwen3, GQA, q and k normed per head, head_dim that is not hidden / heads, tied embeddings, two sliding layers",
        written_by=5, family="qwen3", tokenizer="chatml_split", template=CHATML_DEFAULT_SYSTEM, template_in="tokenizer_config.json",
        system="You keep the lamp.", user_turns=TURNS_BREAD, seed=7100, std=0.3,
        config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                    head_dim=16, vocab_size=320, max_position_embeddings=512, rms_norm_eps=1e-6, tie_word_embeddings=True,
                    use_sliding_window=True, sliding_window=24, max_window_layers=2),
        config_without=["layer_types"],  # as in the published checkpoints, written before that key existed
        rope=dict(theta=1000000.0, scaling=None),
        config_eos=["<|im_end|>"], generation_eos=["<|im_end|>", "<|endoftext|>"], generation={},
    ),
    "qwen3_4l": dict(
        about="qwen3, one kv head, q and k normed per head, untied, no sliding layer, YaRN",
        written_by=5, family="qwen3", tokenizer="chatml", template=CHATML_DEFAULT_SYSTEM, template_in="chat_template.jinja",
        system=None, user_turns=TURNS_HARBOUR, seed=8100, std=0.3,
        config=dict(hidden_size=48, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=1,
                    head_dim=8, vocab_size=320, max_position_embeddings=256, rms_norm_eps=1e-6),
        rope=dict(theta=10000.0, scaling=YARN_INFERRED),
        config_eos=["<|im_end|>"], generation_eos=["<|im_end|>", "<|endoftext|>"], generation={},
    ),
}
