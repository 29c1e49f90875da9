//! What the fake Hub answers to each address, as the Hub does: fields, headers and error codes that hf-hub and
//! `huggingface_hub` read.

use std::collections::BTreeMap;

use crate::fault_server::http::Request;
use serde_json::{Value, json};

use super::{
    READ_TOKEN, TOKEN,
    repo::{State, hex},
};

#[derive(Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn json(body: Value) -> Self {
        Self { status: 200, headers: Vec::new(), body: body.to_string().into_bytes() }
    }

    pub fn refusal(status: u16, code: &str, message: &str) -> Self {
        // A header holds what can be seen; the body holds all of it.
        let visible: String = message.chars().filter(|c| (' '..='~').contains(c)).collect();
        let mut headers = vec![("x-error-message".to_string(), visible)];
        if !code.is_empty() {
            headers.push(("x-error-code".into(), code.into()));
        }
        Self { status, headers, body: json!({ "error": message }).to_string().into_bytes() }
    }
}

fn no_repo() -> Answer {
    Answer::refusal(404, "RepoNotFound", "Repository not found")
}

fn no_revision() -> Answer {
    Answer::refusal(404, "RevisionNotFound", "Invalid rev id")
}

/// What a request may do.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Nobody,
    Reads,
    Writes,
}

impl State {
    pub fn answer(&mut self, request: &Request) -> Answer {
        let token = request.headers.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.as_str());
        let role = match token.map(|value| value.strip_prefix("Bearer ").unwrap_or_default()) {
            None => Role::Nobody,
            Some(TOKEN) => Role::Writes,
            Some(READ_TOKEN) => Role::Reads,
            Some(_) => return Answer::refusal(401, "", "Invalid credentials in Authorization header"),
        };
        let path = request.path.split('?').next().unwrap_or_default().to_string();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let json = || serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
        match (request.method.as_str(), &parts[..]) {
            ("GET", ["api", "whoami-v2"]) => match role {
                Role::Nobody => Answer::refusal(401, "", "Invalid username or password."),
                _ => {
                    let role = if role == Role::Writes { "write" } else { "read" };
                    Answer::json(json!({"type": "user", "name": "someone", "auth": {"accessToken": {"role": role}}}))
                }
            },
            ("GET", ["api", "models", owner, name]) => match self.models.contains(&format!("{owner}/{name}")) {
                true => Answer::json(json!({"id": format!("{owner}/{name}"), "sha": "0".repeat(40)})),
                false => no_repo(),
            },
            ("GET", ["api", "datasets", owner, name]) => self.info(&format!("{owner}/{name}"), "main"),
            ("GET", ["api", "datasets", owner, name, "revision", revision]) => {
                self.info(&format!("{owner}/{name}"), revision)
            }
            ("POST", ["api", "datasets", owner, name, "paths-info", revision]) => {
                self.paths_info(&format!("{owner}/{name}"), revision, &json())
            }
            ("POST", ["api", "datasets", owner, name, "preupload", _]) => {
                self.writing(&format!("{owner}/{name}"), role).unwrap_or_else(|| self.preupload(&json()))
            }
            ("POST", ["api", "datasets", owner, name, "commit", "main"]) => {
                let repo = format!("{owner}/{name}");
                self.writing(&repo, role).unwrap_or_else(|| self.take_commit(&repo, &request.body))
            }
            ("POST", ["datasets", owner, name, "info", "lfs", "objects", "batch"]) => {
                let repo = format!("{owner}/{}", name.trim_end_matches(".git"));
                self.writing(&repo, role).unwrap_or_else(|| self.batch(&json()))
            }
            ("PUT", ["lfs", oid]) => match hex(&request.body, 64) == *oid {
                true => {
                    self.objects.insert(oid.to_string(), request.body.clone());
                    Answer { status: 200, ..Answer::default() }
                }
                false => Answer::refusal(400, "", "another content than announced"),
            },
            ("GET" | "HEAD", ["lfs", oid]) => match self.objects.get(*oid) {
                Some(body) => Answer { status: 200, headers: binary(), body: body.clone() },
                None => Answer::refusal(404, "", "no such object"),
            },
            ("GET" | "HEAD", ["datasets", owner, name, "resolve", revision, path @ ..]) => {
                self.resolve(&format!("{owner}/{name}"), revision, &path.join("/"))
            }
            (method, _) => Answer::refusal(501, "", &format!("the fake Hub has no {method} {path}")),
        }
    }

    fn info(&self, repo: &str, revision: &str) -> Answer {
        if !self.repos.contains_key(repo) {
            return no_repo();
        }
        let Some(commit) = self.at(repo, revision) else { return no_revision() };
        let siblings: Vec<Value> = commit.files.keys().map(|path| json!({"rfilename": path})).collect();
        Answer::json(
            json!({"_id": "0", "id": repo, "author": repo.split('/').next(), "sha": commit.oid, "private": false,
            "gated": false, "disabled": false, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings}),
        )
    }

    fn paths_info(&self, repo: &str, revision: &str, body: &Value) -> Answer {
        if !self.repos.contains_key(repo) {
            return no_repo();
        }
        let Some(commit) = self.at(repo, revision) else { return no_revision() };
        let asked = body["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let entry = |path: &str| {
            let bytes = commit.files.get(path)?;
            let mut entry = json!({"type": "file", "path": path, "size": bytes.len(), "oid": hex(bytes, 40)});
            if bytes.len() >= self.lfs_from {
                entry["lfs"] = json!({"oid": hex(bytes, 64), "size": bytes.len(), "pointerSize": 130});
            }
            Some(entry)
        };
        Answer::json(asked.filter_map(entry).collect())
    }

    fn resolve(&mut self, repo: &str, revision: &str, path: &str) -> Answer {
        if !self.repos.contains_key(repo) {
            return no_repo();
        }
        let Some(commit) = self.at(repo, revision) else { return no_revision() };
        let Some(body) = commit.files.get(path).cloned() else {
            return Answer::refusal(404, "EntryNotFound", "Entry not found");
        };
        let mut headers = binary();
        headers.push(("x-repo-commit".into(), commit.oid.clone()));
        if body.len() < self.lfs_from {
            headers.push(("etag".into(), format!("\"{}\"", hex(&body, 40))));
            return Answer { status: 200, headers, body };
        }
        let (oid, size) = (hex(&body, 64), body.len());
        headers.push(("x-linked-etag".into(), format!("\"{oid}\"")));
        headers.push(("x-linked-size".into(), size.to_string()));
        headers.push(("location".into(), format!("{}/lfs/{oid}", self.address)));
        self.objects.insert(oid, body);
        Answer { status: 302, headers, body: Vec::new() }
    }

    /// A refusal where this may not be written to.
    fn writing(&self, repo: &str, role: Role) -> Option<Answer> {
        match role {
            _ if !self.repos.contains_key(repo) => Some(no_repo()),
            Role::Nobody => Some(Answer::refusal(401, "", "Invalid username or password.")),
            Role::Reads => Some(Answer::refusal(403, "", "You don't have the rights to create a commit")),
            Role::Writes => None,
        }
    }

    fn preupload(&self, body: &Value) -> Answer {
        let mode = |file: &Value| match file["size"].as_u64().unwrap_or(0) >= self.lfs_from as u64 {
            true => "lfs",
            false => "regular",
        };
        let files = body["files"].as_array().into_iter().flatten();
        let files = files.map(|file| json!({"path": file["path"], "uploadMode": mode(file), "shouldIgnore": false}));
        Answer::json(json!({"files": files.collect::<Vec<_>>()}))
    }

    fn batch(&self, body: &Value) -> Answer {
        let objects = body["objects"].as_array().into_iter().flatten().map(|object| {
            let href = format!("{}/lfs/{}", self.address, object["oid"].as_str().unwrap_or_default());
            json!({"oid": object["oid"], "size": object["size"], "actions": {"upload": {"href": href, "header": {}}}})
        });
        Answer::json(json!({"transfer": "basic", "objects": objects.collect::<Vec<_>>()}))
    }

    /// NDJSON: a header, then one operation a line.
    fn take_commit(&mut self, repo: &str, body: &[u8]) -> Answer {
        let bad = |what: &str| Answer::refusal(400, "", what);
        let mut lines = Vec::new();
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Value>(line) {
                Ok(line) => lines.push(line),
                Err(_) => return bad("a line is no JSON"),
            }
        }
        let Some((header, operations)) = lines.split_first().filter(|(first, _)| first["key"] == "header") else {
            return bad("the first line is no header");
        };
        let head = &self.repos[repo].last().unwrap().oid;
        let parent = &header["value"]["parentCommit"];
        if !parent.is_null() && parent != head {
            return Answer::refusal(412, "", "A commit has happened since. Please refresh and try again.");
        }
        let mut changes = BTreeMap::new();
        for operation in operations {
            let value = &operation["value"];
            let Some(path) = value["path"].as_str() else { return bad("an operation without a path") };
            let bytes = match operation["key"].as_str() {
                Some("deletedFile") => None,
                Some("file") if value["encoding"] == "base64" => {
                    match value["content"].as_str().and_then(from_base64) {
                        Some(bytes) if bytes.len() < self.lfs_from => Some(bytes),
                        Some(_) => return bad("Your push was rejected because it contains files larger than 10 MiB."),
                        None => return bad("the content is no base64"),
                    }
                }
                Some("lfsFile") => match self.objects.get(value["oid"].as_str().unwrap_or_default()) {
                    Some(bytes) => Some(bytes.clone()),
                    None => return bad("an LFS object that was never uploaded"),
                },
                _ => return bad("an operation of an unknown kind"),
            };
            changes.insert(path.to_string(), bytes);
        }
        let oid = self.commit(repo, header["value"]["summary"].as_str().unwrap_or_default(), changes);
        let url = format!("{}/datasets/{repo}/commit/{oid}", self.address);
        Answer::json(json!({"success": true, "commitOid": oid, "commitUrl": url, "hookOutput": ""}))
    }
}

fn binary() -> Vec<(String, String)> {
    vec![("content-type".into(), "application/octet-stream".into())]
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (word, bits) = (word << 6 | u32::from(six), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    text.len().is_multiple_of(4).then_some(bytes)
}
