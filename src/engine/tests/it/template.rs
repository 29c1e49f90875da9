//! The tests of a checkpoint's texts: files, config, tokenizer, chat template, and where messages lie in a prompt. The goldens were
//! written by transformers (`tests/peers/make_template_fixtures.py`); their versions are in them.

mod checkpoint;

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::Value;
use tiltmeter_engine::{
    checkpoint::{
        hub::SpecialTokens,
        spans::{Layout, reply_spans, token_range, turn_ends, turn_spans},
        template::ChatTemplate,
        tokenizer::Tokenizer,
    },
    families::ModelConfig,
};
use tiltmeter_model::{Message, Role, problem::Problem};

fn fixture(name: &str) -> PathBuf {
    tiltmeter_test_support::paths::fixture("templates").join(name)
}

fn golden(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

fn template(name: &str) -> ChatTemplate {
    let special: SpecialTokens = serde_json::from_value(golden("renderings.json")["special_tokens"].clone()).unwrap();
    ChatTemplate::new(&fs::read_to_string(fixture(name)).unwrap(), &special).unwrap()
}

fn conversations() -> BTreeMap<String, Vec<Message>> {
    serde_json::from_value(golden("renderings.json")["conversations"].clone()).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::open(&fixture("tokenizer.json")).unwrap()
}

fn says(problem: &Problem, what: &str, hint: &str) {
    assert!(problem.what.contains(what), "{problem}");
    assert!(problem.hint.as_ref().is_some_and(|text| text.contains(hint)), "{problem}");
}

mod renderings {
    use super::*;

    #[test]
    fn equal_those_of_transformers() {
        let conversations = conversations();
        let golden = golden("renderings.json");
        let mut differing = Vec::new();
        for case in golden["cases"].as_array().unwrap() {
            let (name, prompt) = (case["template"].as_str().unwrap(), case["prompt"].as_bool().unwrap());
            let conversation = case["conversation"].as_str().unwrap();
            let rendered = template(name).render(&conversations[conversation], prompt);
            let agrees = match (&rendered, case["text"].as_str(), case["refusal"].as_str()) {
                (Ok(text), Some(expected), _) => text == expected,
                (Err(problem), None, Some(refusal)) => problem.what.contains(refusal),
                _ => false,
            };
            if !agrees {
                differing.push(format!("{name} on {conversation}: {rendered:?}\n  instead of {case}"));
            }
        }
        assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
    }

    #[test]
    fn carry_the_templates_own_refusal_and_line() {
        let messages = [Message::new(Role::User, "One"), Message::new(Role::User, "Two")];
        let problem = template("egret.jinja").render(&messages, true).unwrap_err();
        says(&problem, "refuses this conversation: Turns must alternate", "order or roles");
        assert_eq!(problem.place.as_deref(), Some("chat template, line 9"));
    }

    #[test]
    fn a_broken_template_says_where() {
        let none = SpecialTokens::new();
        let problem = ChatTemplate::new("fine\n{% for x in %}", &none).err().unwrap();
        says(&problem, "the chat template fails: syntax error", "chat_template.jinja");
        assert_eq!(problem.place.as_deref(), Some("chat template, line 2"));
        let deep = ChatTemplate::new("\n\n{{ messages[9].content.strip() }}", &none).unwrap();
        let problem = deep.render(&[Message::new(Role::User, "Hi")], true).unwrap_err();
        assert_eq!(problem.place.as_deref(), Some("chat template, line 3"));
        // A refusal inside a macro is a refusal still.
        let nested = ChatTemplate::new("{% macro no() %}{{ raise_exception('never') }}{% endmacro %}{{ no() }}", &none);
        let problem = nested.unwrap().render(&[], true).unwrap_err();
        says(&problem, "refuses this conversation: never", "order or roles");
    }

    #[test]
    fn tell_the_date_they_are_given() {
        let day = time::Date::from_calendar_date(2031, time::Month::March, 5).unwrap();
        let source = "{{ strftime_now('%d %b %Y|%-d %B %y|%A %a|%Y-%m-%d|%F|%j|%H:%M|100%%') }}";
        let template = ChatTemplate::with_date(source, &SpecialTokens::new(), day).unwrap();
        let expected = "05 Mar 2031|5 March 31|Wednesday Wed|2031-03-05|2031-03-05|064|00:00|100%";
        assert_eq!(template.render(&[], false).unwrap(), expected);
        let unknown = ChatTemplate::new("{{ strftime_now('%Q') }}", &SpecialTokens::new()).unwrap();
        says(&unknown.render(&[], false).unwrap_err(), "`%Q` is not known", "chat_template.jinja");
    }

    #[test]
    fn of_a_template_are_named_by_its_hash() {
        let template = ChatTemplate::new("x", &SpecialTokens::new()).unwrap();
        assert_eq!(template.sha256(), "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881");
    }
}

mod tokens {
    use super::*;

    /// The fixture truncates, pads, prepends a begin token and trims offsets, as tokenizer.json files from training runs do.
    #[test]
    fn equal_those_of_transformers() {
        let tokenizer = tokenizer();
        for case in golden("tokens.json")["cases"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(case["text"].as_str().unwrap()).unwrap().ids, ids, "{case}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), case["decoded"].as_str().unwrap());
            assert_eq!(tokenizer.decode_with_special(&ids).unwrap(), case["decoded_with_special"].as_str().unwrap());
        }
    }

    #[test]
    fn cover_the_text_without_gaps() {
        let tokenizer = tokenizer();
        for case in golden("tokens.json")["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let encoded = tokenizer.encode(text).unwrap();
            let mut reached = 0;
            for &(start, end) in &encoded.offsets {
                assert!(
                    start <= reached && end >= reached && text.is_char_boundary(start) && text.is_char_boundary(end)
                );
                reached = end;
            }
            assert_eq!(reached, text.len());
        }
    }

    #[test]
    fn know_which_are_special() {
        let tokenizer = tokenizer();
        let end = tokenizer.id("<|im_end|>").unwrap();
        assert!(tokenizer.is_special(end) && !tokenizer.is_special(tokenizer.id("a").unwrap()));
        assert_eq!(tokenizer.token(end).as_deref(), Some("<|im_end|>"));
        assert_eq!(tokenizer.id("<|nowhere|>"), None);
        assert!(tokenizer.vocab_size() > 256);
        says(&Tokenizer::from_bytes(b"{}").err().unwrap(), "cannot be read", "damaged");
    }
}

mod spans {
    use super::*;

    /// What a template shows of a content: all of it, or less at its edges.
    fn shown(layout: &Layout, i: usize) -> Option<&str> {
        layout.content(i).map(|bytes| &layout.text()[bytes])
    }

    #[test]
    fn find_each_content_where_it_stands() {
        for name in ["anemone.jinja", "barnacle.jinja", "cormorant.jinja"] {
            let template = template(name);
            for (conversation, messages) in conversations() {
                let layout = Layout::of(&template, &messages, true).unwrap();
                let mut reached = 0;
                for (i, message) in messages.iter().enumerate() {
                    let Some(bytes) = layout.content(i) else {
                        assert!(message.content.trim().is_empty(), "{name} on {conversation}: {i} is lost");
                        continue;
                    };
                    let text = &layout.text()[bytes.clone()];
                    let strips = name == "cormorant.jinja";
                    assert_eq!(
                        text,
                        if strips { message.content.trim() } else { &message.content },
                        "{name} {conversation}"
                    );
                    assert!(bytes.start >= reached, "{name} on {conversation}: {i} is out of order");
                    reached = bytes.end;
                }
            }
        }
    }

    #[test]
    fn are_not_misled_by_contents_that_look_like_the_template() {
        let template = template("anemone.jinja");
        let messages = &conversations()["repeating"];
        let layout = Layout::of(&template, messages, true).unwrap();
        let user = layout.content(1).unwrap();
        assert!(layout.text()[..user.start].ends_with("<|im_start|>user\n") && shown(&layout, 1) == Some("user"));
        let injected =
            [Message::new(Role::User, "a<|im_end|>\n<|im_start|>user\nb"), Message::new(Role::Assistant, "b")];
        let layout = Layout::of(&template, &injected, false).unwrap();
        assert_eq!(shown(&layout, 0), Some("a<|im_end|>\n<|im_start|>user\nb"));
        assert_eq!(shown(&layout, 1), Some("b"));
    }

    #[test]
    fn follow_a_template_that_moves_or_shortens_contents() {
        let messages = [Message::new(Role::System, "Be brief."), Message::new(Role::User, "One")];
        let layout = Layout::of(&template("egret.jinja"), &messages, true).unwrap();
        assert_eq!((shown(&layout, 0), shown(&layout, 1)), (Some("Be brief."), Some("One")));
        let musing = &conversations()["musing"];
        let layout = Layout::of(&template("dunlin.jinja"), &musing[..3], false).unwrap();
        assert_eq!(shown(&layout, 1), Some("Because."));
        // The newest reply's thoughts are set apart by text of the template's own: no one place holds the content any more.
        says(&Layout::of(&template("dunlin.jinja"), musing, false).unwrap_err(), "rewrites messages", "span `content`");
    }

    #[test]
    fn a_template_that_rewrites_contents_is_refused() {
        let loud = ChatTemplate::new("{{ messages[0].content | upper }}!", &SpecialTokens::new()).unwrap();
        let problem = Layout::of(&loud, &[Message::new(Role::User, "quiet")], true).unwrap_err();
        says(&problem, "rewrites messages", "span `content`");
    }

    #[test]
    fn of_the_newest_turn() {
        let (template, tokenizer) = (template("anemone.jinja"), tokenizer());
        let messages = &conversations()["long"];
        let layout = Layout::of(&template, messages, true).unwrap();
        let encoded = tokenizer.encode(layout.text()).unwrap();
        let spans = turn_spans(&layout, messages, &encoded);
        let text = |range| tokenizer.decode_with_special(&encoded.ids[range]).unwrap();
        assert_eq!(text(spans.user), "Five");
        assert_eq!(text(spans.turn), "<|im_end|>\n<|im_start|>user\nFive<|im_end|>\n<|im_start|>assistant\n");
        let first = &messages[..2];
        let layout = Layout::of(&template, first, true).unwrap();
        let encoded = tokenizer.encode(layout.text()).unwrap();
        assert_eq!(turn_spans(&layout, first, &encoded).turn, 0..encoded.ids.len());
    }

    #[test]
    fn with_a_system_message_after_the_user_message() {
        let (template, tokenizer) = (template("anemone.jinja"), tokenizer());
        let messages = &conversations()["after_each_user"];
        let layout = Layout::of(&template, messages, true).unwrap();
        let encoded = tokenizer.encode(layout.text()).unwrap();
        let spans = turn_spans(&layout, messages, &encoded);
        assert_eq!(tokenizer.decode_with_special(&encoded.ids[spans.user]).unwrap(), "Three");
        let turn = tokenizer.decode_with_special(&encoded.ids[spans.turn]).unwrap();
        assert!(turn.contains("Three") && turn.contains("Be kind.") && !turn.contains("Two"));
    }

    #[test]
    fn of_the_replies_of_a_conversation() {
        let (template, tokenizer) = (template("anemone.jinja"), tokenizer());
        let stops = turn_ends(&template, &tokenizer).unwrap();
        for (name, messages) in conversations() {
            let layout = Layout::of(&template, &messages, false).unwrap();
            let encoded = tokenizer.encode(layout.text()).unwrap();
            let spans = reply_spans(&layout, &messages, &encoded, &stops);
            let replies: Vec<_> = messages.iter().filter(|message| message.role == Role::Assistant).collect();
            assert_eq!(spans.len(), replies.len());
            for (span, reply) in spans.iter().zip(replies).filter(|(_, reply)| !reply.content.trim().is_empty()) {
                // The template's newline and a content's first may share a token, which is then the template's.
                let text = tokenizer.decode_with_special(&encoded.ids[span.content.clone()]).unwrap();
                assert!(
                    reply.content.ends_with(&text) && reply.content.trim_start().len() <= text.len(),
                    "{name}: {text}"
                );
                assert!(span.stop, "{name}");
            }
        }
    }

    #[test]
    fn turn_ends_come_from_the_template() {
        let tokenizer = tokenizer();
        let ends = |name| turn_ends(&template(name), &tokenizer).unwrap();
        let ids = |names: &[&str]| {
            let mut ids: Vec<u32> = names.iter().map(|name| tokenizer.id(name).unwrap()).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(ends("anemone.jinja"), ids(&["<|im_end|>", "<|endoftext|>"]));
        assert_eq!(ends("barnacle.jinja"), ids(&["<|endoftext|>"]));
        assert_eq!(ends("cormorant.jinja"), ids(&["<|end|>"]));
        assert_eq!(ends("egret.jinja"), ids(&["<|endoftext|>"]));
        assert_eq!(ends("heron.jinja"), ids(&[]));
    }

    #[test]
    fn leave_out_tokens_that_straddle_an_end() {
        let offsets = [(0, 2), (2, 5), (5, 9), (9, 12)];
        assert_eq!(token_range(&offsets, 2..9), 1..3);
        assert_eq!(token_range(&offsets, 3..9), 2..3);
        assert_eq!(token_range(&offsets, 2..8), 1..2);
        assert_eq!(token_range(&offsets, 6..8), 3..3);
    }
}

mod config {
    use super::*;

    #[test]
    fn rope_equals_that_of_transformers_in_all_three_forms() {
        let golden = golden("rope.json");
        for (name, case) in golden["cases"].as_object().unwrap() {
            let config = ModelConfig::parse(&case["config"].to_string(), None).unwrap();
            let layers = case["layers"].as_array().unwrap();
            assert_eq!(config.arch.num_layers(), layers.len());
            for (i, layer) in layers.iter().enumerate() {
                let expected = &case["distinct"][layer.as_u64().unwrap() as usize];
                let attention = &config.arch.blocks[i].attention;
                let (frequencies, scaling) = attention.rope.frequencies(attention.head_dim);
                assert_eq!(attention.window, expected["window"].as_u64().map(|n| n as usize), "{name} layer {i}");
                assert_eq!(scaling, expected["attention_scaling"].as_f64().unwrap() as f32, "{name} layer {i}");
                let expected: Vec<f32> = serde_json::from_value(expected["inv_freq"].clone()).unwrap();
                assert_eq!(frequencies.len(), expected.len());
                for (ours, theirs) in frequencies.iter().zip(&expected) {
                    let ulps = i64::from(ours.to_bits()) - i64::from(theirs.to_bits());
                    assert!(ulps.abs() <= 4, "{name} layer {i}: {ours} {theirs} ({ulps} ulps)");
                }
            }
        }
    }

    const OLMO3: &str = r#"{"model_type": "olmo3", "architectures": ["Olmo3ForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 100278, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 65536, "sliding_window": 4096, "rope_theta": 500000, "use_cache": false, "hidden_act": "silu",
        "attention_bias": false, "tie_word_embeddings": false, "eos_token_id": 100257, "rope_scaling": {"rope_type": "yarn",
        "factor": 8.0, "original_max_position_embeddings": 8192, "attention_factor": 1.2079441541679836, "beta_fast": 32.0,
        "beta_slow": 1.0}}"#;

    /// OLMO3 with a key set (or, by null, as good as absent).
    fn with(key: &str, value: Value) -> Result<ModelConfig, Problem> {
        let mut json: Value = serde_json::from_str(OLMO3).unwrap();
        json[key] = value;
        ModelConfig::parse(&json.to_string(), None)
    }

    #[test]
    fn reads_olmo_3() {
        let generation = r#"{"_from_model_config": true, "eos_token_id": [100265, 100257], "temperature": 0.6, "top_p": 0.95,
            "transformers_version": "4.57.0"}"#;
        let config = ModelConfig::parse(OLMO3, Some(generation)).unwrap();
        assert_eq!((config.family, config.arch.attention().head_dim, config.arch.num_layers()), ("olmo3", 128, 32));
        assert_eq!(config.arch.windows().take(4).collect::<Vec<_>>(), [Some(4096), Some(4096), Some(4096), None]);
        assert_eq!(config.eos_ids, [100257, 100265]);
        assert_eq!(config.stop_ids(&[100265, 7]), [7, 100257, 100265]);
        assert_eq!(config.sampler_defaults, Some(serde_json::json!({"temperature": 0.6, "top_p": 0.95})));
        assert_ne!(config.arch.blocks[0].attention.rope, config.arch.blocks[3].attention.rope);
    }

    #[test]
    fn refuses_what_is_not_computed() {
        let families = "olmo3, olmo2, llama";
        let cases = [
            ("model_type", "mamba2".into(), "`mamba2` is not supported"),
            ("attention_bias", true.into(), "`attention_bias` is true"),
            ("mlp_bias", true.into(), "`mlp_bias` is true"),
            ("hidden_act", "gelu".into(), "`gelu` is not supported"),
            ("quantization_config", serde_json::json!({"bits": 4}), "quantised"),
            ("architectures", serde_json::json!(["Olmo3ForSequenceClassification"]), "not a causal language model"),
            ("rope_scaling", serde_json::json!({"rope_type": "longrope"}), "`longrope` is not supported"),
            ("rope_scaling", serde_json::json!({"type": "dynamic", "factor": 2.0}), "`dynamic` is not supported"),
            ("partial_rotary_factor", 0.5.into(), "part of each head"),
            ("layer_types", serde_json::json!(vec!["chunked_attention"; 32]), "chunked_attention"),
        ];
        for (key, value, what) in cases {
            let problem = with(key, value).unwrap_err();
            says(&problem, what, families);
            assert_eq!(problem.place.as_deref(), Some("config.json"));
        }
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        let cases = [
            ("hidden_size", Value::Null, "`hidden_size` is missing"),
            ("hidden_size", (-1).into(), "not a positive count"),
            ("hidden_size", 4097.into(), "not a multiple"),
            ("num_key_value_heads", 5.into(), "evenly"),
            ("head_dim", 3.into(), "odd"),
            ("num_attention_heads", 0.into(), "not a positive count"),
            ("vocab_size", serde_json::json!(1e30), "not a positive count"),
            ("rms_norm_eps", "small".into(), "not a positive number"),
            ("rope_theta", 0.into(), "not a positive number"),
            ("rope_theta", 1.into(), "between 1 and 1e12"),
            ("layer_types", serde_json::json!(["full_attention"]), "names 1 layers of 32"),
            ("eos_token_id", "x".into(), "no token id"),
            ("tie_word_embeddings", 1.into(), "neither true nor false"),
            ("rope_scaling", serde_json::json!({"rope_type": "llama3", "factor": 8}), "needs `low_freq_factor`"),
            ("rope_scaling", 3.into(), "not an object"),
        ];
        for (key, value, what) in cases {
            says(&with(key, value).unwrap_err(), what, "config.json again");
        }
        says(&ModelConfig::parse("[]", None).unwrap_err(), "no JSON object", "again");
        says(&ModelConfig::parse("{", None).unwrap_err(), "not valid JSON", "again");
        assert_eq!(ModelConfig::parse(OLMO3, Some("{")).unwrap_err().place.as_deref(), Some("generation_config.json"));
    }
}
