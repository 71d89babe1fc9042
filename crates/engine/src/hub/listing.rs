//! Which files a commit has: the hub's answer, kept in the cache as huggingface_hub keeps it
//! (`trees/COMMIT.json`), since a commit never changes.

use std::{collections::BTreeMap, path::Path};

use hf_hub::api::sync::ApiRepo;
use serde::{Deserialize, Serialize};

use super::names::is_plain;

/// Of huggingface_hub's file.
const FORMAT: u64 = 1;

/// The files of a commit.
#[derive(Debug)]
pub(super) struct Listing {
    /// Name and, where it is known, size in bytes.
    pub files: BTreeMap<String, Option<u64>>,
    /// As the cache keeps it; none where the hub did not say enough.
    kept: Option<Tree>,
    /// Whether it is no list of the hub's, but what the cache holds: it may be a part.
    pub found: bool,
}

/// `trees/COMMIT.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Tree {
    format_version: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    size: u64,
    blob_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    xet_hash: Option<String>,
}

/// The hub's answer to `/api/models/ID/revision/REVISION?blobs=true`.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// Why there is no answer.
pub(super) enum Unanswered {
    /// The repository is there, the revision is not.
    NoSuchRevision,
    /// Anything else.
    Other(String),
}

/// Asks the hub which commit the repository's revision is, and which files it has.
pub(super) fn ask(api: &ApiRepo) -> Result<(String, Listing), Unanswered> {
    let response = match api.info_request().query("blobs", "true").call() {
        Ok(response) => response,
        Err(e) => {
            let text = e.to_string();
            let code = e
                .into_response()
                .and_then(|r| r.header("x-error-code").map(str::to_string));
            return Err(match code.as_deref() {
                Some("RevisionNotFound") => Unanswered::NoSuchRevision,
                _ => Unanswered::Other(text),
            });
        }
    };
    let answer: Answer = response
        .into_json()
        .map_err(|e| Unanswered::Other(format!("its answer cannot be read: {e}")))?;
    if !is_plain(&answer.sha) || answer.sha.contains('/') {
        let what = format!("it names no commit but {:?}", answer.sha);
        return Err(Unanswered::Other(what));
    }
    Ok((answer.sha, Listing::of(answer.siblings)))
}

impl Listing {
    fn of(siblings: Vec<Sibling>) -> Listing {
        let files = siblings
            .iter()
            .map(|f| (f.rfilename.clone(), f.size))
            .collect();
        let entry = |f: Sibling| {
            let (lfs_sha256, lfs_size) = f.lfs.map_or((None, None), |l| (l.sha256, l.size));
            let entry = Entry {
                size: f.size?,
                blob_id: f.blob_id?,
                lfs_sha256,
                lfs_size,
                xet_hash: None,
            };
            Some((f.rfilename, entry))
        };
        let files_kept: Option<BTreeMap<String, Entry>> = siblings.into_iter().map(entry).collect();
        let kept = files_kept.map(|files| Tree {
            format_version: FORMAT,
            files,
        });
        Listing {
            files,
            kept,
            found: false,
        }
    }

    /// What the cache says of a commit, in a repository's folder.
    pub fn read(repository: &Path, commit: &str) -> Option<Listing> {
        let bytes = std::fs::read(file(repository, commit)).ok()?;
        let tree: Tree = serde_json::from_slice(&bytes).ok()?;
        (tree.format_version == FORMAT).then(|| Listing {
            files: (tree.files.iter())
                .map(|(name, entry)| (name.clone(), Some(entry.size)))
                .collect(),
            kept: Some(tree),
            found: false,
        })
    }

    /// What lies in a commit's folder of the cache, for one that nobody left a list of.
    pub fn found(snapshot: &Path) -> Listing {
        let (mut files, mut open) = (BTreeMap::new(), vec![String::new()]);
        while let Some(folder) = open.pop() {
            let entries = std::fs::read_dir(snapshot.join(&folder));
            for entry in entries.into_iter().flatten().flatten() {
                let name = format!("{folder}{}", entry.file_name().to_string_lossy());
                match entry.path().is_dir() {
                    true => open.push(format!("{name}/")),
                    false => drop(files.insert(name, None)),
                }
            }
        }
        Listing {
            files,
            kept: None,
            found: true,
        }
    }

    /// Keeps it in the cache. One that cannot be written to is no fault: the hub is asked again.
    pub fn keep(&self, repository: &Path, commit: &str) {
        let path = file(repository, commit);
        let (Some(tree), Some(folder)) = (&self.kept, path.parent()) else {
            return;
        };
        if path.exists() {
            return;
        }
        let beside = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| Ok(serde_json::to_vec_pretty(tree)?))
            .and_then(|bytes| std::fs::write(&beside, bytes))
            .and_then(|()| std::fs::rename(&beside, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
    }
}

fn file(repository: &Path, commit: &str) -> std::path::PathBuf {
    repository.join("trees").join(format!("{commit}.json"))
}
