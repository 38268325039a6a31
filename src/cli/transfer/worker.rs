//! Who exports and imports: a running Pierhead, or this process on the storage that none holds.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::app;
use crate::cli::args::Target;
use crate::cli::client::{Client, URL_VARIABLE, listener, refuses, shown};
use crate::cli::output::{Console, Exit, Failure};
use crate::cli::{Variables, load, variable};
use crate::config::Config;
use crate::store::StoreErrorKind;
use crate::store::meta::sqlite::META_FILE;
use crate::transfer::Holdings;

/// The key that says where the storage is.
const STORAGE_KEY: &str = "storage.path";

/// Who does the work.
pub(super) enum Worker {
    Server(Client),
    Storage(Box<Config>, Holdings),
}

impl Worker {
    /// The server that was named or configured. If none was named, and nobody listens where the
    /// configured one would, the storage; `creates` says whether one is made that is not there.
    pub(super) async fn find(
        target: &Target,
        variables: &Variables,
        creates: bool,
        console: &mut Console<'_>,
    ) -> Result<Self, Failure> {
        let named = target.url.is_some() || variable(variables, URL_VARIABLE).is_some();
        if !named {
            let config = load(target.config.clone(), variables.clone()).1;
            let config = config.map_err(Failure::usage)?;
            let url = listener(&config)?;
            // A token that cannot be read says nothing about whether a Pierhead runs.
            if refuses(&url).await {
                return Self::open(config, creates, shown(&url), console).await;
            }
        }
        let client =
            Client::new(target, variables).map_err(|failure| match failure.code.as_str() {
                "no_token" if !named => Failure {
                    message: format!(
                        "a Pierhead seems to run, and without its token it cannot be asked: {}",
                        failure.message
                    ),
                    ..failure
                },
                _ => failure,
            })?;
        client.get("status", &[]).await?;
        console.complain(&format!("note: the Pierhead at {} does it\n", client.shown()));
        Ok(Self::Server(client))
    }

    async fn open(
        config: Config,
        creates: bool,
        asked: &str,
        console: &mut Console<'_>,
    ) -> Result<Self, Failure> {
        let path = &config.storage.path;
        // Whoever is elsewhere by mistake shall not fill a storage that nobody serves from.
        let chosen =
            config.in_force.iter().any(|set| set.key == STORAGE_KEY && set.set_by.is_some());
        usable(path, creates && chosen, rustix::process::geteuid().as_raw()).map_err(
            |failure| {
                let message = format!("no Pierhead answers at {asked}, and {}", failure.message);
                Failure { message, ..failure }
            },
        )?;
        let holdings = app::open_holdings(&config).await.map_err(|error| {
            if error.kind() == StoreErrorKind::Locked {
                let message = format!("{error}, and its operator's side does not answer");
                return Failure::new(Exit::NoServer, "locked", message)
                    .help("name its address with --url, or stop it");
            }
            Failure::new(Exit::No, "storage", error)
        })?;
        console.complain(&format!(
            "note: no Pierhead runs here; the storage {} is opened directly\n",
            path.display()
        ));
        Ok(Self::Storage(Box::new(config), holdings))
    }
}

/// Whether `user` may open that storage, and leave files there that `serve` can use.
fn usable(path: &Path, creates: bool, user: u32) -> Result<(), Failure> {
    let failed = |path: &Path, error: io::Error| {
        Failure::new(Exit::No, "storage", format!("{}: {error}", path.display()))
    };
    let folder = match fs::metadata(path) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound && creates => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("there is no storage at {}", path.display());
            return Err(Failure::new(Exit::No, "no_storage", message).help(
                "name the configuration of `serve` with --config, its storage with \
                 PIERHEAD_STORAGE__PATH, or a running Pierhead with --url",
            ));
        }
        Err(error) => return Err(failed(path, error)),
    };
    let records = path.join(META_FILE);
    let records = match fs::metadata(&records) {
        Ok(found) => Some(found.uid()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&records, error)),
    };
    // The directory of a volume is often root's, and what is in it its user's.
    let folder = Some(folder.uid()).filter(|owner| *owner != 0 || user == 0);
    match folder.into_iter().chain(records).find(|owner| *owner != user) {
        None => Ok(()),
        Some(owner) => {
            let message = format!(
                "the storage {} belongs to the user with the id {owner}, who could not use what \
                 the user {user} writes",
                path.display()
            );
            Err(Failure::new(Exit::No, "wrong_user", message)
                .help(format!("run it as that user, such as with `sudo -u '#{owner}'`")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_is_opened_by_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let storage = dir.path().join("storage");
        let code = |creates, user| usable(&storage, creates, user).map_err(|failure| failure.code);
        let me = rustix::process::geteuid().as_raw();
        assert_eq!(code(true, me), Ok(()));
        assert_eq!(code(false, me), Err("no_storage".to_owned()));
        fs::create_dir(&storage).unwrap();
        let wrong = || Err("wrong_user".to_owned());
        // Nothing in it yet: a volume of root's is anybody's who may write there.
        assert_eq!(code(false, me + 1), if me == 0 { Ok(()) } else { wrong() });
        fs::write(storage.join(META_FILE), "").unwrap();
        for creates in [true, false] {
            assert_eq!(code(creates, me), Ok(()));
            assert_eq!(code(creates, me + 1), wrong());
        }
        let failure = usable(&storage, false, me + 1).unwrap_err();
        assert!(failure.help.unwrap().contains(&format!("'#{me}'")));
    }
}
