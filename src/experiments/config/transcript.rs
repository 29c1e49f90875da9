//! The transcript whose user turns are replayed: JSON with `conversation: [{role, content}]`, other keys ignored, or a list of messages.
//! A system message is not replayed, because the conditions have their own; a note reports it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    describe,
    fields::Reader,
    json,
    nearest::nearest,
    tree::{Node, Value},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{Message, Role};

/// The user turns of a conversation and what was answered then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// The file.
    pub path: PathBuf,
    /// At least one, in order.
    pub turns: Vec<Turn>,
    /// Worth saying, but not wrong: system messages that are not replayed.
    pub notes: Vec<Problem>,
}

/// One user message and its original reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// What the user said.
    pub user: String,
    /// What was answered; only the last turn may lack it.
    pub reply: Option<String>,
}

/// Reads a transcript; `Err` holds every problem in it.
pub fn load(path: &Path) -> Result<Transcript, Vec<Problem>> {
    read(&super::read_text(path).map_err(|problem| vec![problem])?, path)
}

/// Reads a transcript from text; `path` names it in problems.
pub fn read(text: &str, path: &Path) -> Result<Transcript, Vec<Problem>> {
    with_messages(text, path, turns).map(|(turns, notes)| Transcript { path: path.to_path_buf(), turns, notes })
}

/// Reads every message of a conversation, roles and all, for a single pass over it.
pub fn load_messages(path: &Path) -> Result<Vec<Message>, Vec<Problem>> {
    let text = super::read_text(path).map_err(|problem| vec![problem])?;
    with_messages(&text, path, |reader, root, messages| {
        if messages.is_empty() {
            reader.refuse(root, "the conversation is empty", SHAPE);
        }
        let read = messages.iter().map(|node| message(reader, node)).collect::<Vec<_>>();
        read.into_iter().flatten().map(|(role, content)| Message::new(role, content)).collect()
    })
    .map(|(messages, _)| messages)
}

/// Reads the file, hands the messages over and gives back what came of them and the notes, or every problem.
fn with_messages<T: Default>(
    text: &str,
    path: &Path,
    read: impl FnOnce(&Reader<'_>, &Node, &[Node]) -> T,
) -> Result<(T, Vec<Problem>), Vec<Problem>> {
    let file = path.display().to_string();
    let (mut root, repeated) = json::from_json(text.strip_prefix('\u{feff}').unwrap_or(text), &file)?;
    root.name_paths(String::new());
    let reader = Reader::new(&file, Path::new(""));
    reader.absorb(repeated);
    let value = messages(&reader, &root).map(|messages| read(&reader, &root, messages)).unwrap_or_default();
    let (problems, notes) = reader.finish();
    if problems.is_empty() { Ok((value, notes)) } else { Err(problems) }
}

/// The list of messages, wherever it stands.
fn messages<'a>(reader: &Reader<'_>, root: &'a Node) -> Option<&'a [Node]> {
    let entries = match &root.value {
        Value::List(items) => return Some(items),
        Value::Map(entries) => entries,
        _ => {
            let what = format!("a transcript is a list of messages, found {}", describe::found(root));
            reader.refuse(root, what, SHAPE);
            return None;
        }
    };
    let Some(entry) = entries.iter().find(|entry| entry.key == "conversation") else {
        let hint = match nearest("conversation", entries.iter().map(|entry| entry.key.as_str())) {
            Some(near) => format!("did you mean it by `{near}`? {SHAPE}"),
            None => SHAPE.to_string(),
        };
        reader.refuse(root, "the transcript has no `conversation`", hint);
        return None;
    };
    match &entry.node.value {
        Value::List(items) => Some(items),
        _ => {
            let what = format!("`conversation` must be a list, found {}", describe::found(&entry.node));
            reader.refuse(&entry.node, what, SHAPE);
            None
        }
    }
}

const SHAPE: &str =
    r#"the shape is {"conversation": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}"#;

fn turns(reader: &Reader<'_>, root: &Node, messages: &[Node]) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    let mut sound = true;
    for node in messages {
        let Some((role, content)) = message(reader, node) else {
            sound = false;
            continue;
        };
        match (role, turns.last_mut()) {
            (Role::System, _) => reader.note(
                node,
                "the transcript's system message is not replayed",
                "conditions bring their own: write it as a condition's system_prompt if it is wanted",
            ),
            (Role::User, Some(Turn { reply: None, .. })) if sound => {
                reader.refuse(node, "two user messages follow each other", "join them, or put the reply between them");
                turns.push(Turn { user: content, reply: None });
            }
            (Role::User, _) => {
                if content.trim().is_empty() {
                    reader.refuse(node, "this user message is empty", "fill it in, or remove the turn");
                }
                turns.push(Turn { user: content, reply: None });
            }
            (Role::Assistant, Some(turn @ Turn { reply: None, .. })) => turn.reply = Some(content),
            (Role::Assistant, None) if sound => {
                reader.refuse(node, "the conversation begins with a reply", "remove it: the first turn is the user's");
            }
            (Role::Assistant, Some(_)) if sound => {
                reader.refuse(
                    node,
                    "two replies follow each other",
                    "join them, or put the user's message between them",
                );
            }
            // After a message that could not be read, the order says nothing.
            (Role::Assistant, _) => {}
        }
    }
    if turns.is_empty() && sound {
        reader.refuse(root, "the transcript has no user turns", SHAPE);
    }
    turns
}

fn message(reader: &Reader<'_>, node: &Node) -> Option<(Role, String)> {
    let Value::Map(entries) = &node.value else {
        reader.refuse(node, format!("a message must be a mapping, found {}", describe::found(node)), SHAPE);
        return None;
    };
    let get = |key: &str| {
        let found = entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node);
        if found.is_none() {
            reader.refuse(node, format!("the message has no `{key}`"), SHAPE);
        }
        found
    };
    let roles = [("user", Role::User), ("assistant", Role::Assistant), ("system", Role::System)];
    let role = get("role").and_then(|node| reader.choice(node, &roles));
    let content = get("content").and_then(|node| reader.text(node));
    Some((role?, content?))
}
