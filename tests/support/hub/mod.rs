//! `FakeHub`: as much of the Hugging Face Hub on loopback as it takes to append to a dataset and to read it back, with hf-hub and
//! with the official Python client. It keeps commits in memory and what it was asked, and goes wrong where a test says so.
//!
//! It is as strict as the Hub where that matters: a token it does not know is a 401, a token that only reads a 403 on a commit, a
//! `parentCommit` that is not the head a 412, a file over the limit must come by LFS. Xet it does not speak: a client that is offered
//! LFS is told to use the basic transfer.

mod answers;
mod repo;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use crate::fault_server::http::{self, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use answers::Answer;
pub use repo::Commit;
use repo::State;

/// May write; with every character that some encoding changes.
pub const TOKEN: &str = "hf_Canary+/=\"\\?>&%0xC0FFEE~token";
/// May read.
pub const READ_TOKEN: &str = "hf_reader0123456789abcdefghij";

/// What becomes of one request instead of its answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A refusal in the Hub's form.
    Status(u16),
    /// The same with this message, in the headers and in the body.
    Saying(u16, String),
    /// A proxy's page.
    Html(u16),
    /// Nothing, until the client goes away.
    Silence,
    /// The connection is reset.
    Reset,
    /// A whole answer with half the body.
    Half,
    /// Somebody else commits this file first; then all goes on as if nothing had been.
    OvertakenBy { repo: String, path: String, bytes: Vec<u8> },
    /// The request is carried out, and this is what comes back.
    After(Box<Fault>),
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `POST /api/…`
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

struct Planned {
    part: String,
    times: usize,
    fault: Fault,
}

#[derive(Default)]
struct Books {
    state: State,
    asked: Vec<Asked>,
    planned: Vec<Planned>,
}

pub struct FakeHub {
    address: SocketAddr,
    books: Arc<Mutex<Books>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl FakeHub {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let books = Arc::new(Mutex::new(Books::default()));
        lock(&books).state.address = format!("http://{address}");
        let shared = books.clone();
        let accepting = tokio::spawn(async move {
            // Connections end with the server, so that a test leaves nothing behind.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { return };
                        stream.set_nodelay(true).ok();
                        connections.spawn(serve(stream, shared.clone()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { address, books, accepting }
    }

    /// With a dataset of this name, which has one commit, as a new one on the Hub has.
    pub async fn with(dataset: &str) -> Self {
        let hub = Self::start().await;
        lock(&hub.books).state.make(dataset);
        hub
    }

    /// What HF_ENDPOINT is set to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn add_model(&self, id: &str) {
        lock(&self.books).state.models.push(id.into());
    }

    /// Files from this size on, in bytes, are to come by LFS.
    pub fn lfs_from(&self, size: usize) {
        lock(&self.books).state.lfs_from = size;
    }

    /// Somebody else's commit.
    pub fn put(&self, repo: &str, path: &str, bytes: &[u8]) -> String {
        lock(&self.books).state.put(repo, path, bytes)
    }

    /// The next request whose line (`POST /api/…`) contains the part.
    pub fn once(&self, part: &str, fault: Fault) {
        self.times(1, part, fault);
    }

    pub fn always(&self, part: &str, fault: Fault) {
        self.times(usize::MAX, part, fault);
    }

    pub fn times(&self, times: usize, part: &str, fault: Fault) {
        lock(&self.books).planned.push(Planned { part: part.into(), times, fault });
    }

    /// From now on all goes well.
    pub fn heal(&self) {
        lock(&self.books).planned.clear();
    }

    /// The newest content.
    pub fn file(&self, repo: &str, path: &str) -> Option<Vec<u8>> {
        lock(&self.books).state.file(repo, path)
    }

    /// From the first to the newest.
    pub fn commits(&self, repo: &str) -> Vec<Commit> {
        lock(&self.books).state.repos[repo].clone()
    }

    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.books).asked.clone()
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Requests of one connection, one after the other.
async fn serve(mut stream: TcpStream, books: Arc<Mutex<Books>>) {
    let mut left_over = Vec::new();
    while let Some(request) = http::read_request(&mut stream, &mut left_over).await {
        let planned = {
            let mut books = lock(&books);
            let line = format!("{} {}", request.method, request.path);
            books.asked.push(Asked {
                line: line.clone(),
                headers: request.headers.clone(),
                body: request.body.clone(),
            });
            let found = books.planned.iter().position(|plan| plan.times > 0 && line.contains(&plan.part));
            found.map(|at| {
                books.planned[at].times -= 1;
                books.planned[at].fault.clone()
            })
        };
        if !answer(&mut stream, &request, planned, &books).await {
            return;
        }
    }
}

/// `false`: the connection is over.
async fn answer(stream: &mut TcpStream, request: &Request, fault: Option<Fault>, books: &Mutex<Books>) -> bool {
    let carried_out = || lock(books).state.answer(request);
    let (answer, fault) = match fault {
        None => (carried_out(), None),
        Some(Fault::After(fault)) => (carried_out(), Some(*fault)),
        Some(Fault::OvertakenBy { repo, path, bytes }) => {
            lock(books).state.put(&repo, &path, &bytes);
            (carried_out(), None)
        }
        Some(Fault::Half) => {
            let whole = carried_out();
            (Answer { body: whole.body[..whole.body.len() / 2].to_vec(), ..whole }, None)
        }
        other => (Answer::default(), other),
    };
    let answer = match fault {
        None => answer,
        Some(Fault::Status(status)) => Answer::refusal(status, "", "made to fail"),
        Some(Fault::Saying(status, message)) => Answer::refusal(status, "", &message),
        Some(Fault::Html(status)) => {
            let page = b"<html><head><title>Bad Gateway</title></head><body>nginx</body></html>".to_vec();
            Answer { status, headers: vec![("content-type".into(), "text/html".into())], body: page }
        }
        Some(Fault::Silence) => {
            let mut byte = [0];
            tokio::time::timeout(Duration::from_secs(3600), stream.read(&mut byte)).await.ok();
            return false;
        }
        Some(_) => {
            // Closing with no linger time sends RST instead of FIN.
            stream.set_zero_linger().ok();
            return false;
        }
    };
    let mut bytes = http::head(answer.status, &answer.headers, answer.body.len()).into_bytes();
    if request.method != "HEAD" {
        bytes.extend_from_slice(&answer.body);
    }
    stream.write_all(&bytes).await.is_ok()
}
