//! Accounts and users of a local cluster: what Secrets are on Kubernetes are files here.
//!
//! Owns `credentials/USER/` in the state directory. Decides nothing: [`crate::tenancy`] does.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::build::config::Generation;
use crate::crd::{AuthMode, NatsAccount, NatsClusterStatus, NatsUser};
use crate::tenancy::credentials::{Credentials, STATE};
use crate::tenancy::{self, Held, Observed, Outcome};
use crate::tenants::is_live;

use super::LocalError;

/// Folder in the state directory; one folder a user in it.
const FOLDER: &str = "credentials";

/// Accounts and users of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tenants {
    /// Its `NatsAccount`s.
    pub accounts: Vec<NatsAccount>,
    /// Its `NatsUser`s.
    pub users: Vec<NatsUser>,
}

impl Tenants {
    /// Decides, and writes the files of users whose credentials changed.
    pub fn settle(
        &self,
        directory: &Path,
        auth: AuthMode,
        before: Option<&Generation>,
        status: Option<&NatsClusterStatus>,
        now: i64,
    ) -> Result<Outcome, LocalError> {
        let folder = directory.join(FOLDER);
        let name = |user: &NatsUser| user.metadata.name.clone().unwrap_or_default();
        let read = |user: &NatsUser| {
            let text = fs::read_to_string(folder.join(name(user)).join(STATE)).ok();
            text.and_then(|text| Credentials::read(&text)).map_or(Held::Nothing, Held::Ours)
        };
        let held: BTreeMap<_, _> = self.users.iter().map(|user| (name(user), read(user))).collect();
        let observed = Observed {
            auth,
            accounts: &self.accounts,
            users: &self.users,
            held: &held,
            before: before.map(|before| before.rendered.settings.accounts.as_slice()).unwrap_or_default(),
            before_is_live: before.is_some_and(|before| is_live(before, status)),
            now,
        };
        let outcome = tenancy::decide(&observed, rand::random);
        for (user, credentials) in &outcome.credentials {
            if held.get(user) != Some(&Held::Ours(credentials.clone())) {
                let url = status.map(urls).unwrap_or_default();
                write(&folder.join(user), credentials, &url)?;
            }
        }
        Ok(outcome)
    }
}

/// Tells users where servers are, which is known only when they run.
pub fn write_urls(directory: &Path, outcome: &Outcome, status: &NatsClusterStatus) -> Result<(), LocalError> {
    let url = urls(status);
    for (user, credentials) in &outcome.credentials {
        let folder = directory.join(FOLDER).join(user);
        if !url.is_empty() && fs::read_to_string(folder.join("url")).ok().as_ref() != Some(&url) {
            write(&folder, credentials, &url)?;
        }
    }
    Ok(())
}

fn urls(status: &NatsClusterStatus) -> String {
    status.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect::<Vec<_>>().join(",")
}

fn write(folder: &Path, credentials: &Credentials, url: &str) -> Result<(), LocalError> {
    let failed = |what, path: PathBuf| {
        move |source| LocalError::State { what, path: path.display().to_string(), source }
    };
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    created.map_err(failed("cannot create", folder.to_owned()))?;
    let data = credentials.data(url, None);
    for stale in ["user", "password", "nkey"].iter().filter(|key| !data.contains_key(**key)) {
        match fs::remove_file(folder.join(stale)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("cannot remove", folder.join(stale))(error));
            }
            _ => {}
        }
    }
    for (key, value) in data {
        // Renamed into place: a client never reads half of it.
        let (path, new) = (folder.join(&key), folder.join(format!(".{key}")));
        let options = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        options
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(failed("cannot write", path))?;
    }
    Ok(())
}
