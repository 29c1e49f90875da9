//! Finds messages in a rendered prompt: byte ranges first, then token ranges.
//!
//! The template is rendered a second time with every content replaced by a unique mark. The text between marks is the template's own; matching
//! it in order against the real rendering leaves the contents. So a content that occurs elsewhere too, or that the template strips or shortens,
//! is still found.

use std::ops::Range;

use crate::{
    checkpoint::template::ChatTemplate,
    checkpoint::tokenizer::{Encoded, Tokenizer},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{Message, Role};

/// Private-use characters: no template looks for them, none strips them.
const MARK_OPENS: char = '\u{F3A0}';
const MARK_CLOSES: char = '\u{F3A1}';

/// Candidate places tried before a rendering counts as not matching its template.
const TRIES: usize = 20_000;

/// A rendered prompt and where its contents stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    text: String,
    contents: Vec<Option<Range<usize>>>,
}

/// Token ranges of a prompt that asks for the next reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnSpans {
    /// The content of the newest user message; empty where there is none.
    pub user: Range<usize>,
    /// What this turn adds: everything after the content of the previous reply (so its turn end is the first token),
    /// or the whole prompt in the first turn.
    pub turn: Range<usize>,
}

/// Token range of one reply that a conversation already has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplySpan {
    /// The tokens of its content; empty where the template shows none of it.
    pub content: Range<usize>,
    /// Whether the token right after the content is a stop token (it is then at `content.end`).
    pub stop: bool,
}

fn mark(message: usize) -> String {
    format!("{MARK_OPENS}{message}{MARK_CLOSES}")
}

/// The messages with marks for contents.
fn marked(messages: &[Message]) -> Vec<Message> {
    let mark = |(i, message): (usize, &Message)| match message.content.trim() {
        // Templates ask whether there is any content; blank stays blank, and has no place.
        "" => message.clone(),
        _ => Message::new(message.role, mark(i)),
    };
    messages.iter().enumerate().map(mark).collect()
}

impl Layout {
    /// Renders a conversation and finds its contents.
    ///
    /// # Errors
    /// The template's own, and a template that rewrites contents so that they cannot be found again.
    pub fn of(template: &ChatTemplate, messages: &[Message], add_generation_prompt: bool) -> Result<Self, Problem> {
        let text = template.render(messages, add_generation_prompt)?;
        let lost = || {
            Problem::new("the chat template rewrites messages, so their positions in the prompt are unknown")
                .hint("use the span `content`, which needs no places, or another chat_template.jinja")
        };
        let skeleton = template.render(&marked(messages), add_generation_prompt).map_err(|_| lost())?;
        let pieces = pieces(&skeleton, messages.len()).ok_or_else(lost)?;
        let mut search = Search { text: &text, messages, pieces: &pieces, tries: TRIES, found: Vec::new() };
        if !search.piece(0, 0) {
            return Err(lost());
        }
        let mut contents = vec![None; messages.len()];
        // A content shown twice is meant where it stands last, next to the reply.
        for (piece, range) in pieces.iter().zip(search.found) {
            contents[piece.message] = Some(range);
        }
        Ok(Self { text, contents })
    }

    /// Refuses a conversation of which the template leaves a message out: the model would answer another one.
    ///
    /// # Errors
    /// The first such message.
    pub fn check_shown(template: &ChatTemplate, messages: &[Message], text: &str) -> Result<(), Problem> {
        let is_marked = |i: &usize| !messages[*i].content.trim().is_empty();
        let missing = match template.render(&marked(messages), true) {
            Ok(skeleton) => (0..messages.len()).filter(is_marked).find(|i| !skeleton.contains(&mark(*i))),
            // The template looks into contents. Reasoning before the reply is what templates leave out on purpose.
            Err(_) => (0..messages.len()).filter(is_marked).find(|i| {
                let content = &messages[*i].content;
                let reply = content.rsplit_once("</think>").map_or(content.as_str(), |(_, reply)| reply);
                !text.contains(reply.trim())
            }),
        };
        let Some(i) = missing else { return Ok(()) };
        let role = match messages[i].role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        Err(Problem::new(format!(
            "the chat template leaves out message {} ({role}), so the model would not see it",
            i + 1
        ))
        .hint("place its text where the template shows it, or put another chat_template.jinja beside the weights"))
    }

    /// The prompt.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Bytes of a message's content in the prompt; `None` where it is blank or the template leaves it out.
    pub fn content(&self, message: usize) -> Option<Range<usize>> {
        self.contents.get(message).cloned().flatten()
    }

    fn tokens(&self, message: usize, encoded: &Encoded) -> Range<usize> {
        self.content(message).map_or(0..0, |bytes| token_range(&encoded.offsets, bytes))
    }
}

/// The tokens that lie wholly within the bytes; one that straddles an end belongs to the template as much and is left out.
pub fn token_range(offsets: &[(usize, usize)], bytes: Range<usize>) -> Range<usize> {
    let start = offsets.partition_point(|&(start, _)| start < bytes.start);
    let end = offsets.partition_point(|&(_, end)| end <= bytes.end);
    start..end.max(start)
}

/// The spans of a prompt; `encoded` are the tokens of `layout.text()`.
pub fn turn_spans(layout: &Layout, messages: &[Message], encoded: &Encoded) -> TurnSpans {
    let newest = |role: Role| messages.iter().rposition(|message| message.role == role);
    let user = newest(Role::User).map_or(0..0, |i| layout.tokens(i, encoded));
    let previous = newest(Role::Assistant).and_then(|last| (0..=last).rev().find_map(|i| layout.content(i)));
    let start = previous.map_or(0, |bytes| encoded.offsets.partition_point(|&(start, _)| start < bytes.end));
    TurnSpans { user, turn: start..encoded.ids.len() }
}

/// One span per assistant message, in order; `encoded` are the tokens of `layout.text()`.
pub fn reply_spans(layout: &Layout, messages: &[Message], encoded: &Encoded, stop_ids: &[u32]) -> Vec<ReplySpan> {
    let replies = messages.iter().enumerate().filter(|(_, message)| message.role == Role::Assistant);
    let span = |(i, _): (usize, &Message)| {
        let content = layout.tokens(i, encoded);
        let next = encoded.ids.get(content.end).filter(|_| !content.is_empty());
        ReplySpan { stop: next.is_some_and(|id| stop_ids.contains(id)), content }
    };
    replies.map(span).collect()
}

/// The special tokens with which the template ends a reply, inside a conversation and at its end; ascending.
/// Empty where it ends them with plain text.
///
/// # Errors
/// The template's and the tokenizer's own.
pub fn turn_ends(template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Vec<u32>, Problem> {
    let exchange = [Message::new(Role::User, "Is it so?"), Message::new(Role::Assistant, "It is so.")];
    let followed = [&exchange[..], &[Message::new(Role::User, "Why?")]].concat();
    let mut ends = Vec::new();
    for messages in [&exchange[..], &followed] {
        let layout = Layout::of(template, messages, false)?;
        let encoded = tokenizer.encode(layout.text())?;
        let Some(reply) = layout.content(1) else { continue };
        let after = encoded.offsets.partition_point(|&(start, _)| start < reply.end);
        // A blank may stand before the turn end; any other text means that there is none.
        let end = (after..encoded.ids.len()).find(|&i| {
            let (start, end) = encoded.offsets[i];
            tokenizer.is_special(encoded.ids[i]) || !layout.text()[start..end].trim().is_empty()
        });
        ends.extend(end.map(|i| encoded.ids[i]).filter(|&id| tokenizer.is_special(id)));
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

/// The template's own text before a content, and after it up to the next one (or the end).
struct Piece<'a> {
    before: &'a str,
    message: usize,
    after: &'a str,
}

/// Cuts a marked rendering at its marks; `None` if a mark is broken or there is none.
fn pieces(skeleton: &str, messages: usize) -> Option<Vec<Piece<'_>>> {
    let mut parts = skeleton.split(MARK_OPENS);
    let mut before = parts.next()?;
    let mut pieces = Vec::new();
    for part in parts {
        let (number, after) = part.split_once(MARK_CLOSES)?;
        let message = number.parse().ok().filter(|&message| message < messages)?;
        pieces.push(Piece { before, message, after });
        before = after;
    }
    Some(pieces)
}

struct Search<'a> {
    text: &'a str,
    messages: &'a [Message],
    pieces: &'a [Piece<'a>],
    tries: usize,
    found: Vec<Range<usize>>,
}

impl Search<'_> {
    /// Whether the pieces from `k` on match the text from byte `at` on; `found` then holds the contents.
    fn piece(&mut self, k: usize, at: usize) -> bool {
        let Some(piece) = self.pieces.get(k) else { return k == 0 || at == self.text.len() };
        let start = if k == 0 { piece.before.len() } else { at };
        if k == 0 && !self.text.starts_with(piece.before) {
            return false;
        }
        for end in self.ends(piece, start, k + 1 == self.pieces.len()) {
            self.tries = self.tries.saturating_sub(1);
            if self.tries == 0 {
                return false;
            }
            self.found.push(start..end);
            if self.piece(k + 1, end + piece.after.len()) {
                return true;
            }
            self.found.pop();
        }
        false
    }

    /// Where the content may end: as it was written, stripped, and then whatever part of it is left, the longest first.
    fn ends(&self, piece: &Piece<'_>, start: usize, is_last: bool) -> Vec<usize> {
        let rest = &self.text[start..];
        let content = self.messages[piece.message].content.as_str();
        let fits = |end: usize| {
            let after = &self.text[end..];
            if is_last { after == piece.after } else { after.starts_with(piece.after) }
        };
        let written = [content, content.trim(), content.trim_start(), content.trim_end()];
        let mut ends: Vec<usize> =
            written.into_iter().filter(|&text| rest.starts_with(text)).map(|text| start + text.len()).collect();
        if !piece.after.is_empty() {
            let longest = (start + content.len()).min(self.text.len());
            let parts = self.text[start..].match_indices(piece.after).map(|(at, _)| start + at);
            let mut parts: Vec<usize> = parts.take_while(|&end| end <= longest).collect();
            parts.reverse();
            ends.extend(parts.into_iter().filter(|&end| content.contains(&self.text[start..end])));
        }
        ends.retain(|&end| fits(end));
        let mut seen = Vec::new();
        ends.retain(|end| {
            if seen.contains(end) {
                false
            } else {
                seen.push(*end);
                true
            }
        });
        ends
    }
}
