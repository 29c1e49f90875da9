//! As much of HTTP/1.1 as the servers of these tests need: one request off a connection, the head of a reply.

use tokio::{io::AsyncReadExt, net::TcpStream};

/// One request, whole.
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// The next request; what was read beyond it stays in `left_over`. `None`: the client is done.
pub async fn read_request(stream: &mut TcpStream, left_over: &mut Vec<u8>) -> Option<Request> {
    let mut piece = vec![0; 16 << 10];
    loop {
        if let Some(head_end) = left_over.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&left_over[..head_end]).into_owned();
            let mut lines = head.split("\r\n");
            let mut first = lines.next()?.split(' ').map(str::to_string);
            let (method, path) = (first.next()?, first.next()?);
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_string()))
                .collect();
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let end = head_end + 4 + length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
            if left_over.len() >= end {
                let body = left_over[head_end + 4..end].to_vec();
                left_over.drain(..end);
                return Some(Request { method, path, headers, body });
            }
        }
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => left_over.extend_from_slice(&piece[..n]),
        }
    }
}

pub fn head(status: u16, headers: &[(String, String)], length: usize) -> String {
    let mut head = format!("HTTP/1.1 {status} {}\r\ncontent-length: {length}\r\n", reason(status));
    if !headers.iter().any(|(name, _)| name == "content-type") {
        head.push_str("content-type: application/json\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        302 => "Found",
        429 => "Too Many Requests",
        _ => "Other",
    }
}
