//! What a transcript may look like, and that every mistake in one is answered with its line and column.

use std::path::Path;

use proptest::prelude::*;
use tiltmeter_experiments::config::transcript;
use tiltmeter_model::{Message, Role};

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_transcript_is_a_list_of_messages_with_or_without_company() {
    let desk = tempfile::tempdir().unwrap();
    let list = r#"[{"role": "user", "content": "Grüße 😀\n"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "\ud83d\ude00", "x": 1}]"#;
    let bare = transcript::load(&file(&desk, "list.json", list)).unwrap();
    assert_eq!(bare.turns.len(), 2);
    assert_eq!((bare.turns[0].user.as_str(), bare.turns[0].reply.as_deref()), ("Grüße 😀\n", Some("")));
    assert_eq!((bare.turns[1].user.as_str(), bare.turns[1].reply.as_deref()), ("😀", None));
    let wrapped =
        format!("{{\"model\": \"x\",\n\t\"meta\": {{\"a\": [1, 2.5e3, null, true]}},\n\"conversation\": {list}}}");
    let wrapped = transcript::load(&file(&desk, "wrapped.json.json", &wrapped)).unwrap();
    assert_eq!(wrapped.turns, bare.turns);
    assert!(wrapped.notes.is_empty());
}

#[test]
fn a_system_message_of_a_transcript_is_not_replayed_and_that_is_said() {
    let text = r#"[{"role": "system", "content": "Be good."}, {"role": "user", "content": "Hello"}]"#;
    let transcript = transcript::read(text, Path::new("t.json")).unwrap();
    assert_eq!(transcript.turns.len(), 1);
    assert_eq!(transcript.notes[0].what, "the transcript's system message is not replayed");
    assert_eq!(transcript.notes[0].place.as_deref(), Some("t.json:1:2 (0)"));
}

#[test]
fn mistakes_in_a_transcript_come_with_their_place() {
    for (text, expected) in [
        ("{\"conversation\": [\n{\"role\": \"user\",, }]}", "t.json:2:17: this is not valid JSON"),
        (
            "{\"conversation\": [",
            "t.json:1:18: this is not valid JSON: EOF while parsing a list | the file ends too early",
        ),
        ("", "t.json:1:1: this is not valid JSON"),
        ("3", "t.json:1:1: a transcript is a list of messages, found the number 3"),
        (
            "{\"conversations\": []}",
            "t.json:1:1: the transcript has no `conversation` | did you mean it by `conversations`?",
        ),
        ("{\"conversation\": 3}", "t.json:1:18 (conversation): `conversation` must be a list, found the number 3"),
        ("[]", "t.json:1:1: the transcript has no user turns"),
        ("[{\"role\": \"system\", \"content\": \"x\"}]", "t.json:1:1: the transcript has no user turns"),
        (
            "[{\"role\": \"usr\", \"content\": \"x\"}]",
            "t.json:1:11 (0.role): `role` cannot be `usr` | did you mean `user`?",
        ),
        (
            "[{\"role\": \"user\", \"content\": [\"x\"]}]",
            "t.json:1:30 (0.content): `content` must be text, found a list of 1 entry",
        ),
        ("[{\"role\": \"user\"}]", "t.json:1:2 (0): the message has no `content`"),
        ("[{\"role\": \"user\", \"content\": \" \"}]", "t.json:1:2 (0): this user message is empty"),
        (
            "[{\"role\": \"assistant\", \"content\": \"x\"}, {\"role\": \"user\", \"content\": \"x\"}]",
            "t.json:1:2 (0): the conversation begins with a reply",
        ),
        (
            "[{\"role\": \"user\", \"content\": \"a\"},\n{\"role\": \"user\", \"content\": \"b\"}]",
            "t.json:2:1 (1): two user messages follow each other | join them",
        ),
        ("[\"hello\"]", "t.json:1:2 (0): a message must be a mapping, found the text `hello`"),
    ] {
        let problems = transcript::read(text, Path::new("t.json")).unwrap_err();
        let first = format!(
            "{}: {} | {}",
            problems[0].place.as_deref().unwrap(),
            problems[0].what,
            problems[0].hint.as_deref().unwrap()
        );
        assert!(
            problems.len() == 1 && first.starts_with(expected),
            "{text}\n  said     {problems:#?}\n  expected {expected}"
        );
    }
}

#[test]
fn a_conversation_for_one_pass_keeps_its_roles() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"[{"role": "system", "content": "Be good."}, {"role": "assistant", "content": "Hi"}]"#;
    let messages = transcript::load_messages(&file(&folder, "m.json", text)).unwrap();
    assert_eq!(messages, [Message::new(Role::System, "Be good."), Message::new(Role::Assistant, "Hi")]);
    let empty = transcript::load_messages(&file(&folder, "e.json", "[]")).unwrap_err();
    assert_eq!(empty[0].what, "the conversation is empty");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\x00-\\x7fäß😀\u{feff}]{0,120}") {
        let _ = transcript::read(&text, Path::new("t.json"));
    }

    #[test]
    fn what_serde_json_reads_the_located_reader_reads_too(words in proptest::collection::vec("\\PC{0,20}", 1..6)) {
        let messages: Vec<_> = words.iter().map(|word| serde_json::json!({"role": "user", "content": format!("x{word}"), word: [word, 1.5, {}, null]})).collect();
        let first = serde_json::to_string_pretty(&messages[..1]).unwrap();
        let turns = transcript::read(&first, Path::new("t.json"));
        if !["role", "content"].contains(&words[0].as_str()) {
            prop_assert_eq!(&turns.unwrap().turns[0].user, &format!("x{}", words[0]));
        }
    }
}
