//! Certificates of local servers, in folders of the state directory.
//!
//! Owns reading and writing them: `tls` is what servers read, `ca` is ours alone. Decides nothing:
//! [`crate::certificates`] does.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::LocalError;
use super::process::TLS_FOLDER;
use crate::certificates::{State, Stored, key};

/// Folder of the authority.
const AUTHORITY_FOLDER: &str = "ca";
/// File of what we remember about the files beside it.
const NOTES: &str = "notes.json";

/// What the state directory holds; what cannot be read is taken for missing, and made anew.
pub fn read(directory: &Path) -> State {
    State {
        authority: read_folder(&directory.join(AUTHORITY_FOLDER)),
        server: read_folder(&directory.join(TLS_FOLDER)),
    }
}

/// Writes all of it, the authority first.
pub fn write(directory: &Path, state: &State) -> Result<(), LocalError> {
    write_folder(&directory.join(AUTHORITY_FOLDER), &state.authority)?;
    write_folder(&directory.join(TLS_FOLDER), &state.server)
}

/// Files of a certificate that the user brings; whether they differ from what was there.
pub fn write_given(directory: &Path, files: &BTreeMap<String, String>) -> Result<bool, LocalError> {
    let given = Stored { data: files.clone(), notes: BTreeMap::new() };
    let folder = directory.join(TLS_FOLDER);
    let changed = read_folder(&folder).data != given.data;
    if changed {
        write_folder(&folder, &given)?;
    }
    Ok(changed)
}

fn read_folder(folder: &Path) -> Stored {
    let file = |name: &&str| Some(((*name).to_owned(), fs::read_to_string(folder.join(name)).ok()?));
    let notes = fs::read_to_string(folder.join(NOTES)).ok();
    Stored {
        data: key::ALL.iter().filter_map(file).collect(),
        notes: notes.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
    }
}

fn write_folder(folder: &Path, stored: &Stored) -> Result<(), LocalError> {
    fs::create_dir_all(folder).map_err(failed("cannot create", folder))?;
    let notes = serde_json::to_string(&stored.notes).unwrap_or_default();
    let files = stored.data.iter().map(|(name, text)| (name.as_str(), text)).chain([(NOTES, &notes)]);
    for (name, text) in files {
        let path = folder.join(name);
        // Keys are inside. Replaced as a whole: a server may read at any moment.
        let fresh = folder.join(format!(".{name}"));
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(failed("cannot write", &path))?;
    }
    for name in key::ALL.iter().filter(|name| !stored.data.contains_key(**name)) {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("cannot remove", &folder.join(name))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LocalError {
    let path = path.display().to_string();
    move |source| LocalError::State { what, path, source }
}
