//! Downloads a hub id into the hub cache, all files at one commit, and explains the hub's errors.

use std::{path::PathBuf, time::Duration};

use hf_hub::{HFClient, HFError};

use crate::checkpoint::hub::{
    ADDED_TOKENS, CONFIG, GENERATION, INDEX, PICKLED, SPECIAL_TOKENS, TEMPLATE, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS,
    only_pickled, read_optional, shard_names,
};
use tiltmeter_model::problem::Problem;

/// How long the first, small file may take before the hub counts as out of reach.
const FIRST_ANSWER: Duration = Duration::from_secs(60);

/// `org/name[@revision]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubId {
    org: String,
    name: String,
    revision: Option<String>,
}

impl HubId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let (org, name) = id.split_once('/')?;
        let is_part = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.len() <= 96 && part.chars().all(plain)
        };
        let is_revision = |text: &str| !text.is_empty() && !text.contains("..") && !text.contains(char::is_whitespace);
        let valid = is_part(org) && is_part(name) && revision.is_none_or(is_revision);
        valid.then(|| Self { org: org.to_owned(), name: name.to_owned(), revision: revision.map(str::to_owned) })
    }
}

/// Where the files of a hub model lie now.
pub(super) struct Fetched {
    pub(super) folder: PathBuf,
    /// Commit.
    pub(super) revision: String,
}

/// Downloads the files that are not cached. Blocks; may be called inside an asynchronous runtime.
pub(super) fn fetch(id: &HubId, name: &str) -> Result<Fetched, Problem> {
    // A runtime cannot start inside another, but it can on a new thread.
    let worker = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Problem::new(format!("cannot start a download: {error}")))?;
        runtime.block_on(Download::new(id, name)?.run())
    };
    std::thread::scope(|scope| scope.spawn(worker).join()).unwrap_or_else(|_| {
        Err(Problem::new(format!("the download of `{name}` stopped unexpectedly")).hint(by_hand(id)))
    })
}

struct Download<'a> {
    id: &'a HubId,
    name: &'a str,
    client: HFClient,
    offline: bool,
}

impl<'a> Download<'a> {
    fn new(id: &'a HubId, name: &'a str) -> Result<Self, Problem> {
        let client = HFClient::new().map_err(|error| {
            Problem::new(format!("cannot talk to the hub: {error}")).hint("check HF_ENDPOINT, or give a folder instead")
        })?;
        let offline =
            std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !["", "0", "false", "no"].contains(&value.as_str()));
        Ok(Self { id, name, client, offline })
    }

    async fn run(&self) -> Result<Fetched, Problem> {
        let asked = self.id.revision.as_deref().unwrap_or("main");
        let config = tokio::time::timeout(FIRST_ANSWER, self.file(CONFIG, asked, self.offline)).await;
        let config = config.map_err(|_| self.out_of_reach("the hub does not answer"))?;
        let config = match config {
            Ok(config) => config,
            Err(HFError::EntryNotFound { .. }) => return Err(self.without_config(asked).await),
            Err(error) => return Err(self.explain(error)),
        };
        // A branch may move while files come; the folder's name is the commit that all others are then taken from.
        let folder = config.parent().map(PathBuf::from).unwrap_or_default();
        let revision = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for file in [GENERATION, TOKENIZER, TOKENIZER_CONFIG, TEMPLATE, SPECIAL_TOKENS, ADDED_TOKENS] {
            self.optional(file, &revision).await?;
        }
        // As transformers does: a whole file comes before shards.
        if self.optional(WEIGHTS, &revision).await? {
            return Ok(Fetched { folder, revision });
        }
        let shards = match self.optional(INDEX, &revision).await? {
            true => shard_names(&read_optional(&folder, INDEX)?.unwrap_or_default())
                .map_err(|problem| problem.at(format!("{INDEX} of {}", self.name)))?,
            false => [WEIGHTS.to_owned()].into(),
        };
        for shard in shards {
            tracing::info!(model = self.name, file = shard, "fetching weights");
            if !self.optional(&shard, &revision).await? {
                return Err(self.without_weights(&shard, &revision).await);
            }
        }
        Ok(Fetched { folder, revision })
    }

    async fn file(&self, file: &str, revision: &str, cached_only: bool) -> Result<PathBuf, HFError> {
        let repository = self.client.model(&self.id.org, &self.id.name);
        let request = repository.download_file().filename(file).revision(revision).local_files_only(cached_only);
        request.send().await
    }

    /// Whether the repository has the file at this commit; if so, it is in the cache now.
    async fn optional(&self, file: &str, commit: &str) -> Result<bool, Problem> {
        // What a commit holds, and what it lacks, does not change: the cache knows both, and no hub need be asked again.
        let mut answer = self.file(file, commit, true).await;
        if matches!(answer, Err(HFError::LocalEntryNotFound { .. })) && !self.offline {
            answer = self.file(file, commit, false).await;
        }
        match answer {
            Ok(_) => Ok(true),
            Err(HFError::EntryNotFound { .. } | HFError::LocalEntryNotFound { .. }) => Ok(false),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// hf-hub says "no such file" for a missing repository and a missing revision too, so both are queried.
    async fn without_config(&self, asked: &str) -> Problem {
        let name = self.name;
        let repository = self.client.model(&self.id.org, &self.id.name);
        match (repository.exists().send().await, repository.revision_exists().revision(asked).send().await) {
            (Err(error), _) => self.explain(error),
            (Ok(false), _) => self.unknown(),
            (Ok(true), Ok(false)) => Problem::new(format!("the hub model `{name}` has no revision `{asked}`"))
                .hint("leave the part after @ away for the main branch"),
            _ => Problem::new(format!("the hub model `{name}` is not a checkpoint: it has no config.json"))
                .hint("choose a repository in transformers' format"),
        }
    }

    fn unknown(&self) -> Problem {
        Problem::new(format!("there is neither a folder `{0}` nor a hub model that may be seen as `{0}`", self.name))
            .hint("check the spelling; for a private or gated model, set HF_TOKEN to a token that may read it")
    }

    async fn without_weights(&self, shard: &str, revision: &str) -> Problem {
        for file in PICKLED {
            let repository = self.client.model(&self.id.org, &self.id.name);
            let exists = repository.file_exists().filename(file).revision(revision);
            if !self.offline && exists.send().await.unwrap_or(false) {
                return only_pickled(self.name);
            }
        }
        Problem::new(format!("`{}` has no weight file {shard}", self.name)).hint(match self.offline {
            true => format!("the cache is incomplete and HF_HUB_OFFLINE is set; {}", by_hand(self.id)),
            false => "choose a repository with safetensors weights".to_owned(),
        })
    }

    fn out_of_reach(&self, why: &str) -> Problem {
        Problem::new(format!("`{}` is no folder, and it cannot be fetched: {why}", self.name)).hint(by_hand(self.id))
    }

    fn explain(&self, error: HFError) -> Problem {
        let name = self.name;
        match error {
            // To those without a login, a hub shows an absent model and a hidden one alike.
            HFError::RepoNotFound { .. } => self.unknown(),
            HFError::AuthRequired { context } if context.error_code.as_deref() != Some("GatedRepo") => self.unknown(),
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
                Problem::new(format!("the hub does not give out `{name}` without permission"))
                    .hint("accept the model's terms on its hub page, and set HF_TOKEN to a token that may read it")
            }
            HFError::LocalEntryNotFound { path } => {
                self.out_of_reach(&format!("HF_HUB_OFFLINE is set and {path} is not in the cache"))
            }
            HFError::RateLimited { .. } => Problem::new(format!("the hub refuses `{name}` for now: too many requests"))
                .hint("wait, or set HF_TOKEN"),
            HFError::Request { source, .. } => self.out_of_reach(&format!("the hub cannot be reached ({source})")),
            other => self.out_of_reach(&other.to_string()),
        }
    }
}

fn by_hand(id: &HubId) -> String {
    let revision = id.revision.as_ref().map(|revision| format!(" --revision {revision}")).unwrap_or_default();
    format!(
        "where there is a network, run: hf download {}/{}{revision} --local-dir FOLDER; then give FOLDER",
        id.org, id.name
    )
}
