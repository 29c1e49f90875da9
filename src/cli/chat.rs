//! Owns `chat`: its arguments and the conversation at the keyboard, with the projection of each reply beside it.
//! Must not know: inference, HTTP.

use std::{
    io::{BufRead, Write},
    path::PathBuf,
};

use clap::Args;

use super::{
    parse_count, parse_site, parse_temperature,
    run::{DeviceChoice, parse_device},
    terminal::escape,
};
use tiltmeter_model::probe::Site;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatReply, Finish, Message, Role};

/// Talk to a model and watch the projection of each reply.
///
/// Type a message and press Enter. `/reset` begins again, `/quit` or the end of the input ends.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter chat data/models/quay
  tiltmeter chat data/models/quay --axis data/axes/quay_assistant.safetensors --site block.4.out
  tiltmeter chat allenai/Olmo-3-7B-Instruct --system \"Be brief.\"
  printf 'Hello\\nAnd now?\\n' | tiltmeter chat data/models/quay --temperature 0")]
pub struct ChatArgs {
    /// Model: a name on the hub, or a folder
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Axis to project each reply on
    #[arg(long, value_name = "FILE")]
    pub axis: Option<PathBuf>,
    /// Where to read [default: the axis' own site]
    #[arg(long, value_name = "SITE", value_parser = parse_site, requires = "axis")]
    pub site: Option<Site>,
    /// System prompt
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Temperature; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.7, value_parser = parse_temperature, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Seed
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Longest reply in tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = parse_count, allow_negative_numbers = true)]
    pub max_new_tokens: usize,
    /// Where the model runs: cpu, cuda (the first GPU), cuda:N, or auto, which is a GPU if there is one
    #[arg(long, value_name = "DEVICE", default_value_t, value_parser = parse_device)]
    pub device: DeviceChoice,
}

/// Holds a conversation: each line of `input` is a message, `answer` gets all messages so far. With `prompting` it shows where to
/// type. A problem with one reply is shown and takes that message back; a closed `output` ends the conversation.
pub fn converse(
    system: Option<&str>,
    prompting: bool,
    input: impl BufRead,
    output: &mut impl Write,
    mut answer: impl FnMut(&[Message]) -> Result<ChatReply, Problem>,
) -> Result<(), Problem> {
    let opening: Vec<Message> = system.map(|text| Message::new(Role::System, text)).into_iter().collect();
    let mut messages = opening.clone();
    let mut show = |text: &str| output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_ok();
    let mark = if prompting { "> " } else { "" };
    if !show(mark) {
        return Ok(());
    }
    for line in input.lines() {
        let line = line.map_err(|error| Problem::new(format!("the input cannot be read: {error}")))?;
        let mut shown = true;
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => return Ok(()),
            "/reset" => {
                messages.clone_from(&opening);
                shown = show("(the conversation begins again)\n");
            }
            text => {
                messages.push(Message::new(Role::User, text));
                match answer(&messages) {
                    Ok(reply) => {
                        shown = show(&reply_text(&reply));
                        messages.push(reply.message);
                    }
                    Err(problem) => {
                        messages.pop();
                        shown = show(&format!("error: {}\n", escape(&problem.to_string())));
                    }
                }
            }
        }
        if !shown || !show(mark) {
            return Ok(());
        }
    }
    if prompting {
        show("\n");
    }
    Ok(())
}

/// A reply, and below it one line with what was measured.
pub fn reply_text(reply: &ChatReply) -> String {
    let mut measured: Vec<String> = Vec::new();
    if let Some(readout) = &reply.readout {
        let each = readout.projections.iter();
        measured.extend(each.map(|p| format!("{} at {}: {:+.4}", escape(&p.name), p.site, p.mean)));
        measured.push(format!("{} tokens", readout.measured_tokens));
    }
    match reply.finish {
        Finish::Stop => {}
        Finish::Length => measured.push("cut at --max-new-tokens".into()),
        Finish::ContentFilter => measured.push("the rest was withheld".into()),
    }
    let text = escape(reply.message.content.trim_end());
    if measured.is_empty() { format!("{text}\n") } else { format!("{text}\n  [{}]\n", measured.join(" | ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiltmeter_model::Usage;
    use tiltmeter_model::probe::{ProbeReadout, Readout};

    fn reply(text: &str, mean: f32) -> ChatReply {
        let projection = ProbeReadout { name: "warm".into(), site: Site::BlockOut(4), mean, per_token: vec![mean; 3] };
        ChatReply {
            message: Message::new(Role::Assistant, text),
            token_ids: vec![1, 2, 3],
            finish: Finish::Stop,
            usage: Usage::default(),
            reused_tokens: 0,
            readout: Some(Readout { measured_tokens: 3, projections: vec![projection], vectors: Vec::new() }),
            version: None,
        }
    }

    fn talk(input: &str, answer: impl FnMut(&[Message]) -> Result<ChatReply, Problem>) -> String {
        let mut output = Vec::new();
        converse(Some("Be brief."), false, input.as_bytes(), &mut output, answer).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn the_history_grows_and_reset_takes_it_back_to_the_system_prompt() {
        let mut seen = Vec::new();
        let said = talk("Hello\n\nAgain\n/reset\nNew\n/quit\nnever\n", |messages| {
            seen.push(messages.len());
            Ok(reply("ok\x1b[2J", -1.5))
        });
        assert_eq!(seen, [2, 4, 2]);
        let answer = "ok\\u{1b}[2J\n  [warm at block.4.out: -1.5000 | 3 tokens]\n";
        assert_eq!(said, format!("{answer}{answer}(the conversation begins again)\n{answer}"));
    }

    #[test]
    fn a_failed_reply_takes_its_message_back() {
        let mut seen = Vec::new();
        let said = talk("one\ntwo\n", |messages| {
            seen.push(messages.len());
            Err(Problem::new("too long").hint("begin again with /reset"))
        });
        assert_eq!(seen, [2, 2]);
        assert!(said.starts_with("error: too long\n  hint: begin again with /reset\n"), "{said}");
    }

    #[test]
    fn a_closed_pipe_ends_the_conversation_quietly() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut asked = 0;
        let answer = |_: &[Message]| {
            asked += 1;
            Ok(reply("x", 0.0))
        };
        converse(None, true, "a\nb\n".as_bytes(), &mut Closed, answer).unwrap();
        assert_eq!(asked, 0);
    }
}
