//! The other side of the measurement: a process of its own on loopback that answers every chat completion with the same
//! reply after a fixed time, so that its work is in nobody else's figures.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// The argument that makes this program the server.
pub const SERVE: &str = "serve";

/// What the reply is billed.
pub const PROMPT_TOKENS: u64 = 61;
pub const REPLY_TOKENS: u64 = 18;

fn reply() -> String {
    let text = "I would rather tell you the whole of it now than leave you to find out later.";
    let body = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "fixed-2026-01-01",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": REPLY_TOKENS},
    })
    .to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A server under way; dropped, it ends.
pub struct Server {
    process: Child,
    /// Its end is how the server learns that nobody needs it any more.
    _alive: Option<ChildStdin>,
    pub base_url: String,
}

impl Server {
    pub fn start(latency: Duration) -> Self {
        let program = std::env::current_exe().unwrap();
        let milliseconds = latency.as_millis().to_string();
        let mut command = Command::new(program);
        command.args([SERVE, &milliseconds]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let base_url = format!("http://{}/v1", address.trim());
        Self { _alive: process.stdin.take(), process, base_url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves until standard input ends.
pub fn serve(latency: Duration) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(answer(stream, latency));
        }
    });
}

/// The requests of one connection, one after the other.
async fn answer(mut stream: TcpStream, latency: Duration) {
    let reply = reply();
    let mut bytes = vec![0; 64 << 10];
    let mut filled = 0;
    loop {
        match stream.read(&mut bytes[filled..]).await {
            Ok(0) | Err(_) => return,
            Ok(more) => filled += more,
        }
        let Some(length) = request_length(&bytes[..filled]) else { continue };
        if filled < length {
            continue;
        }
        bytes.copy_within(length..filled, 0);
        filled -= length;
        if !latency.is_zero() {
            sleep(latency).await;
        }
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Of the first request with its body, as soon as its head is there.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Some(head + length.unwrap_or(0))
}
