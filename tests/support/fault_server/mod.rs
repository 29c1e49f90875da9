//! `FaultServer`: an HTTP/1.1 server on loopback that answers like OpenAI, Anthropic or Gemini, or goes wrong in the way the script
//! says, request by request. It keeps what it received and its own bill, so that a test compares books with the other side.
//! Bytes are written by hand on plain TCP: a server library would not break off, lie about a length, or fall silent.

mod bodies;
pub mod http;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub use bodies::{Api, PROMPT_TOKENS, REPLY_TOKENS};

/// How a 429 says when to come back.
#[derive(Clone, Debug)]
pub enum Limit {
    /// It does not say.
    Silent,
    Seconds(f64),
    Milliseconds(u64),
    /// An HTTP date this far from now (whole seconds).
    Date(Duration),
    /// Google's RetryInfo in the body.
    RetryInfo(f64),
    /// `x-ratelimit-reset-requests` (OpenAI) or `anthropic-ratelimit-requests-reset`, used up.
    Reset(Duration),
    /// `x-ratelimit-reset` as an epoch in milliseconds (OpenRouter).
    Epoch(Duration),
    /// OpenAI's `insufficient_quota`: no wait ends it.
    Quota,
    /// Google's daily quota.
    Daily,
}

/// What becomes of one request.
#[derive(Clone, Debug)]
pub enum Act {
    /// A good reply with this text.
    Reply(String),
    /// A good reply, then the connection is closed without a word.
    ReplyThenClose(String),
    /// The provider's filter ends the reply.
    Filtered,
    /// max_tokens was reached.
    CutShort(String),
    Limited(Limit),
    /// A plain refusal in the API's own form.
    Status(u16),
    /// A proxy's page.
    Html(u16),
    /// Any status, headers and body.
    Raw(u16, Vec<(String, String)>, Vec<u8>),
    /// Accepts, reads, resets the connection.
    ResetBeforeBody,
    /// Half the body, then a reset. Billed.
    ResetMidBody,
    /// A whole HTTP reply whose JSON ends in the middle. Billed.
    TruncatedJson,
    /// JSON of another API.
    WrongShape,
    /// `choices: []` or its like. Billed.
    EmptyChoices,
    /// A message without text. Billed.
    NullContent,
    EmptyBody,
    /// A body of this many bytes, sent as fast as it is taken.
    Huge {
        bytes: usize,
        announced: bool,
    },
    /// One byte per pause, for ever.
    SlowLoris(Duration),
    /// Nothing, until the client goes away.
    Silence,
    /// The head of a reply, then nothing.
    SilenceAfterHead,
    /// A good reply with usage that cannot be. Billed in truth.
    WrongUsage,
    /// A good reply without usage. Billed.
    NoUsage,
    /// A good reply after a while. Billed, whether or not anyone still listens.
    Late(Duration, String),
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub at: Instant,
    pub api: Option<Api>,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Value,
    /// When the client closed the connection on a reply that was not finished.
    pub hung_up: Option<Instant>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// One line of the server's bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Billed {
    /// Which request, counted from 0.
    pub request: usize,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

#[derive(Default)]
struct Books {
    received: Vec<Received>,
    billed: Vec<Billed>,
}

type Script = dyn Fn(usize, &Received) -> Act + Send + Sync;

pub struct FaultServer {
    address: SocketAddr,
    books: Arc<Mutex<Books>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl FaultServer {
    /// The script says what becomes of request `n` (from 0).
    pub async fn start(script: impl Fn(usize, &Received) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let books = Arc::new(Mutex::new(Books::default()));
        let (script, shared): (Arc<Script>, _) = (Arc::new(script), books.clone());
        let accepting = tokio::spawn(async move {
            // Connections end with the server, so that a test leaves nothing behind.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { return };
                        stream.set_nodelay(true).ok();
                        connections.spawn(serve(stream, script.clone(), shared.clone()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { address, books, accepting }
    }

    /// The same act for every request.
    pub async fn always(act: Act) -> Self {
        Self::start(move |_, _| act.clone()).await
    }

    /// What a client takes as its base address.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn received(&self) -> Vec<Received> {
        lock(&self.books).received.clone()
    }

    pub fn bill(&self) -> Vec<Billed> {
        lock(&self.books).billed.clone()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Requests of one connection, one after the other; ends when either side is done with it.
async fn serve(mut stream: TcpStream, script: Arc<Script>, books: Arc<Mutex<Books>>) {
    let mut left_over = Vec::new();
    while let Some(request) = http::read_request(&mut stream, &mut left_over).await {
        let received = Received {
            at: Instant::now(),
            api: Api::of(&request.path),
            body: serde_json::from_slice(&request.body).unwrap_or(Value::Null),
            path: request.path,
            headers: request.headers,
            hung_up: None,
        };
        let n = {
            let mut books = lock(&books);
            books.received.push(received.clone());
            books.received.len() - 1
        };
        let act = script(n, &received);
        let api = received.api.unwrap_or(Api::OpenAi);
        let turn = Turn { stream: &mut stream, books: &books, n, api };
        if !turn.play(act).await {
            return;
        }
    }
}

/// One request and its end.
struct Turn<'a> {
    stream: &'a mut TcpStream,
    books: &'a Mutex<Books>,
    n: usize,
    api: Api,
}

impl Turn<'_> {
    fn bill(&self) {
        let line = Billed { request: self.n, prompt_tokens: PROMPT_TOKENS, completion_tokens: REPLY_TOKENS };
        lock(self.books).billed.push(line);
    }

    /// `false`: the connection is over.
    async fn play(mut self, act: Act) -> bool {
        let api = self.api;
        match act {
            Act::Reply(text) => {
                self.bill();
                self.json(200, &[], &api.reply(&text)).await
            }
            Act::ReplyThenClose(text) => {
                self.bill();
                self.json(200, &[], &api.reply(&text)).await;
                false
            }
            Act::CutShort(text) => {
                self.bill();
                self.json(200, &[], &api.cut_short(&text)).await
            }
            Act::Filtered => {
                self.bill();
                self.json(200, &[], &api.filtered()).await
            }
            Act::Limited(limit) => {
                let (headers, body) = api.limited(&limit);
                self.json(429, &headers, &body).await
            }
            Act::Status(status) => self.json(status, &[], &api.error(status)).await,
            Act::Html(status) => {
                let page = "<html>\r\n<head><title>Bad Gateway</title></head>\r\n<body><center><h1>Bad Gateway</h1></center></body>";
                self.whole(status, &[("content-type".into(), "text/html".into())], page.as_bytes()).await
            }
            Act::Raw(status, headers, body) => self.whole(status, &headers, &body).await,
            Act::ResetBeforeBody => {
                self.reset();
                false
            }
            Act::ResetMidBody => {
                self.bill();
                let body = api.reply("never heard to the end").to_string();
                self.part(&http::head(200, &[], body.len()), &body.as_bytes()[..body.len() / 2]).await;
                self.reset();
                false
            }
            Act::TruncatedJson => {
                self.bill();
                let body = api.reply("cut").to_string();
                self.whole(200, &[], &body.as_bytes()[..body.len() - 20]).await
            }
            Act::WrongShape => self.json(200, &[], &serde_json::json!({"data": [{"embedding": [0.5, 1.5]}]})).await,
            Act::EmptyChoices => {
                self.bill();
                self.json(200, &[], &api.empty_choices()).await
            }
            Act::NullContent => {
                self.bill();
                self.json(200, &[], &api.null_content()).await
            }
            Act::EmptyBody => self.whole(200, &[], b"").await,
            Act::Huge { bytes, announced } => self.huge(bytes, announced).await,
            Act::SlowLoris(pause) => {
                self.bill();
                let body = api.reply(&"slow ".repeat(20_000)).to_string();
                self.part(&http::head(200, &[], body.len()), &[]).await;
                for byte in body.as_bytes() {
                    if !self.part("", &[*byte]).await || !self.wait(pause).await {
                        break;
                    }
                }
                false
            }
            Act::Silence => {
                self.wait(Duration::from_secs(3600)).await;
                false
            }
            Act::SilenceAfterHead => {
                self.part(&http::head(200, &[], 1000), b"{").await;
                self.wait(Duration::from_secs(3600)).await;
                false
            }
            Act::WrongUsage => {
                self.bill();
                self.json(200, &[], &api.wrong_usage("fine")).await
            }
            Act::NoUsage => {
                self.bill();
                self.json(200, &[], &api.no_usage("fine")).await
            }
            Act::Late(delay, text) => {
                self.bill();
                self.wait(delay).await && self.json(200, &[], &api.reply(&text)).await
            }
        }
    }

    async fn json(&mut self, status: u16, headers: &[(String, String)], body: &Value) -> bool {
        self.whole(status, headers, body.to_string().as_bytes()).await
    }

    async fn whole(&mut self, status: u16, headers: &[(String, String)], body: &[u8]) -> bool {
        // In one write: two would wait for each other's acknowledgement.
        let mut bytes = http::head(status, headers, body.len()).into_bytes();
        bytes.extend_from_slice(body);
        self.stream.write_all(&bytes).await.is_ok()
    }

    async fn part(&mut self, head: &str, body: &[u8]) -> bool {
        let written = self.stream.write_all(head.as_bytes()).await.is_ok() && self.stream.write_all(body).await.is_ok();
        if !written {
            self.hung_up();
        }
        written
    }

    async fn huge(&mut self, bytes: usize, announced: bool) -> bool {
        let head = match announced {
            true => http::head(200, &[], bytes),
            false => "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".into(),
        };
        let piece = vec![b' '; 1 << 16];
        let mut open = self.part(&head, b"").await;
        for _ in 0..bytes / piece.len() {
            let head = if announced { String::new() } else { format!("{:x}\r\n", piece.len()) };
            open = open && self.part(&head, &piece).await && (announced || self.part("\r\n", b"").await);
        }
        false
    }

    /// Waits, listening for the client to go away. `false`: it did.
    async fn wait(&mut self, pause: Duration) -> bool {
        let mut byte = [0];
        match tokio::time::timeout(pause, self.stream.read(&mut byte)).await {
            Err(_) => true,
            Ok(_) => {
                self.hung_up();
                false
            }
        }
    }

    fn hung_up(&self) {
        lock(self.books).received[self.n].hung_up.get_or_insert_with(Instant::now);
    }

    /// Closing with no linger time sends RST instead of FIN.
    fn reset(&mut self) {
        self.stream.set_zero_linger().ok();
    }
}
