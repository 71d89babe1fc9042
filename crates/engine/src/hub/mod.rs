//! Files of a Hugging Face repository, all of one commit, kept in the cache that huggingface_hub
//! keeps.
//!
//! ```no_run
//! use randori_engine::hub::{Kind, Snapshot};
//! # fn main() -> randori_engine::Result<()> {
//! let snapshot = Snapshot::open(Kind::Dataset, "openai/gsm8k", "main")?;
//! let commit = snapshot.commit(); // to be recorded: `open` with it means the same bytes for ever
//! for name in snapshot.names().filter(|n| n.ends_with(".parquet")) {
//!     let file = snapshot.get(name)?; // fetched where the cache has it not
//! }
//! # Ok(()) }
//! ```
//!
//! hf-hub downloads and lays the cache out; which commit is meant is decided here, once, because
//! its `get` mixes the files of two commits when a branch moves, does not see what Python fetched
//! by commit (that writes no ref), and asks the network whatever `HF_HUB_OFFLINE` says.

mod environment;
mod listing;
mod names;

use std::path::{Path, PathBuf};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiRepo},
};
use randori_kernels::{Error, Result};

use environment::Environment;
use listing::Listing;
use names::{encoded, is_inside, is_plain};

pub use names::is_commit;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

/// A repository at one commit.
#[derive(Debug)]
pub struct Snapshot {
    repository: Repository,
    commit: String,
    dir: PathBuf,
    listing: Listing,
    /// What fetches, or why nothing can be fetched.
    api: std::result::Result<ApiRepo, String>,
}

impl Snapshot {
    /// Finds out which commit `revision` (a branch, tag or commit) of `repo` (`org/name`) is. The
    /// hub is asked; where it cannot be (no network, or `HF_HUB_OFFLINE` forbids), the cache says
    /// which commit it last was. A full commit whose list of files is in the cache needs no asking.
    /// No file is fetched yet.
    ///
    /// # Errors
    /// A revision that the repository has not; whatever else the hub answers, unless the cache has
    /// it.
    pub fn open(kind: Kind, repo: &str, revision: &str) -> Result<Snapshot> {
        let environment = Environment::of(&|name| std::env::var(name).ok());
        let repository = Repository::new(kind, repo, revision, &environment)?;
        if environment.offline {
            let why = "HF_HUB_OFFLINE is set and the cache does not have it".to_string();
            return repository.cached(Err(why));
        }
        let builder = ApiBuilder::from_cache(repository.cache.clone())
            .with_progress(false)
            .with_endpoint(environment.endpoint.clone())
            .with_token(environment.token());
        let api = builder
            .build()
            .map_err(|e| repository.refused(&e.to_string()))?;
        let at = |revision: &str| {
            api.repo(Repo::with_revision(
                repo.to_string(),
                kind.into(),
                revision.to_string(),
            ))
        };
        if is_commit(revision) && Listing::read(&repository.dir, revision).is_some() {
            return repository.cached(Ok(at(revision)));
        }
        match listing::ask(&at(revision)) {
            Ok((commit, listing)) => {
                listing.keep(&repository.dir, &commit);
                repository.note(&commit);
                Ok(repository.at(commit.clone(), listing, Ok(at(&commit))))
            }
            Err(listing::Unanswered::NoSuchRevision) => {
                Err(repository.refused("it has no such revision"))
            }
            Err(listing::Unanswered::Other(why)) => repository.cached(Err(why)),
        }
    }

    /// What the cache has of a revision, and nothing else: no network is used, now or later.
    pub fn cached(kind: Kind, repo: &str, revision: &str) -> Option<Snapshot> {
        let environment = Environment::of(&|name| std::env::var(name).ok());
        let repository = Repository::new(kind, repo, revision, &environment).ok()?;
        repository.cached(Err("not in the cache".into())).ok()
    }

    /// The commit's hash.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The folder that the files lie in, under their names.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every file of the commit, in the alphabet's order; where [`Snapshot::is_listed`] says no,
    /// those that the cache holds.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.listing.files.keys().map(String::as_str)
    }

    /// Whether the hub's list of the commit's files is at hand. Without a network the cache may
    /// have none: what it holds may be a part then.
    pub fn is_listed(&self) -> bool {
        !self.listing.found
    }

    /// Whether the commit has a file. Where its list is not at hand: whether the cache has it.
    pub fn has(&self, name: &str) -> bool {
        self.listing.files.contains_key(name)
    }

    /// A file of this commit: from the cache, or else fetched.
    ///
    /// # Errors
    /// What the hub answered; a cached file whose size is not the one that the hub says.
    pub fn get(&self, name: &str) -> Result<PathBuf> {
        if !is_inside(name) {
            return Err(self.refused(&format!("{name:?} is not the name of a file in it")));
        }
        let path = self.dir.join(name);
        let size = self.listing.files.get(name).copied().flatten();
        let found = std::fs::metadata(&path).ok().filter(|m| m.is_file());
        let whole = |len: u64| size.is_none_or(|size| size == len);
        if found.as_ref().is_some_and(|m| whole(m.len())) {
            return Ok(path);
        }
        let api = self.api.as_ref().map_err(|why| match &found {
            Some(m) => self.refused(&format!(
                "{} has {} bytes, the hub's file {}: {why}",
                path.display(),
                m.len(),
                size.unwrap_or_default()
            )),
            None => self.refused(&format!("{name}: {why}")),
        })?;
        if found.is_none() && path.is_symlink() {
            // its blob is gone; hf-hub would stumble over the name
            std::fs::remove_file(&path).map_err(|source| Error::Io {
                path: path.clone(),
                source,
            })?;
        }
        self.download(api, name)?;
        let len = std::fs::metadata(&path).map_or(0, |m| m.len());
        match whole(len) {
            true => Ok(path),
            false => Err(self.refused(&format!(
                "{name} came with {len} bytes, the hub says {}",
                size.unwrap_or_default()
            ))),
        }
    }

    /// Fetches a file that the cache has not. hf-hub takes one text for the address and for the
    /// name in the cache, so what an address spells otherwise gets its name afterwards.
    fn download(&self, api: &ApiRepo, name: &str) -> Result<()> {
        let at = |e: &dyn std::fmt::Display| self.refused(&format!("{name}: {e}"));
        let spelt = encoded(name);
        let path = self.dir.join(&spelt);
        if spelt != name && self.has(&spelt) {
            let other = format!("an address spells it {spelt}, which is another file's name");
            return Err(at(&other));
        }
        if spelt != name && path.is_symlink() {
            std::fs::remove_file(&path).map_err(|e| at(&e))?; // of a download that was killed
        }
        let got = api.download(&spelt).map_err(|e| at(&e))?;
        if got != path {
            return Err(self.refused(&format!(
                "{name} came from another commit than {}: {}",
                self.commit,
                got.display()
            )));
        }
        if spelt != name {
            let named = self.dir.join(name);
            let folder = named.parent().unwrap_or(&self.dir);
            std::fs::create_dir_all(folder)
                .and_then(|()| std::fs::rename(&path, &named))
                .map_err(|e| at(&e))?;
            let folders = path.ancestors().skip(1);
            for folder in folders.take_while(|folder| *folder != self.dir) {
                let _ = std::fs::remove_dir(folder); // only if nothing else is in it
            }
        }
        Ok(())
    }

    fn refused(&self, why: &str) -> Error {
        self.repository.refused(why)
    }
}

/// Where the cache keeps a repository, and what is asked of it.
#[derive(Debug)]
struct Repository {
    cache: Cache,
    kind: Kind,
    repo: String,
    revision: String,
    dir: PathBuf,
}

impl Repository {
    fn new(
        kind: Kind,
        repo: &str,
        revision: &str,
        environment: &Environment,
    ) -> Result<Repository> {
        let folder = Repo::new(repo.to_string(), kind.into()).folder_name();
        let this = Repository {
            dir: environment.cache.join(folder),
            cache: Cache::new(environment.cache.clone()),
            kind,
            repo: repo.to_string(),
            revision: revision.to_string(),
        };
        if !is_plain(repo) || repo.split('/').count() > 2 {
            return Err(this.refused("a repository is org/name"));
        }
        if !is_plain(revision) {
            return Err(this.refused("a revision is a branch, tag or commit"));
        }
        Ok(this)
    }

    /// The commit that the cache knows for the revision: itself, or what the ref says.
    fn cached(self, api: std::result::Result<ApiRepo, String>) -> Result<Snapshot> {
        let itself =
            is_commit(&self.revision) || self.dir.join("snapshots").join(&self.revision).is_dir();
        let commit = match itself {
            true => Some(self.revision.clone()),
            false => std::fs::read_to_string(self.dir.join("refs").join(&self.revision))
                .ok()
                .map(|text| text.trim().to_string())
                .filter(|commit| is_plain(commit)),
        };
        let there =
            |commit: &String| api.is_ok() || self.dir.join("snapshots").join(commit).is_dir();
        let Some(commit) = commit.filter(there) else {
            let why = api.err();
            return Err(self.refused(why.as_deref().unwrap_or("it is not in the cache")));
        };
        let listing = Listing::read(&self.dir, &commit)
            .unwrap_or_else(|| Listing::found(&self.dir.join("snapshots").join(&commit)));
        Ok(self.at(commit, listing, api))
    }

    /// Notes which commit a branch or tag is now, for days without a network. A cache that cannot
    /// be written to costs those days only.
    fn note(&self, commit: &str) {
        if self.revision != commit {
            let named =
                Repo::with_revision(self.repo.clone(), self.kind.into(), self.revision.clone());
            let _ = self.cache.repo(named).create_ref(commit);
        }
    }

    fn at(
        self,
        commit: String,
        listing: Listing,
        api: std::result::Result<ApiRepo, String>,
    ) -> Snapshot {
        Snapshot {
            dir: self.dir.join("snapshots").join(&commit),
            repository: self,
            commit,
            listing,
            api,
        }
    }

    fn refused(&self, why: &str) -> Error {
        let Repository { repo, revision, .. } = self;
        Error::rule(format!(
            "cannot get {repo} (revision {revision}) from the hub: {why}; without a network, name a local folder or file"
        ))
    }
}

impl From<Kind> for RepoType {
    fn from(kind: Kind) -> RepoType {
        match kind {
            Kind::Model => RepoType::Model,
            Kind::Dataset => RepoType::Dataset,
        }
    }
}
