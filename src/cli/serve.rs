//! `pierhead serve`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::load;
use super::output::{Console, Exit};
use crate::app::Reread;
use crate::config::Config;

/// Runs `run` with the configuration; messages of either go to the standard error.
pub(super) fn serve<E: std::fmt::Display>(
    file: Option<PathBuf>,
    variables: Vec<(OsString, OsString)>,
    run: impl FnOnce(Config, Reread) -> Result<(), E>,
    console: &mut Console<'_>,
) -> Exit {
    let (_, config) = load(file.clone(), variables.clone());
    // A variable that names the file goes on naming it.
    let reread: Reread = Box::new(move || {
        load(file.clone(), variables.clone()).1.map_err(|error| error.to_string())
    });
    match config.map(|config| run(config, reread)) {
        Ok(Ok(())) => Exit::Yes,
        Ok(Err(error)) => {
            console.complain(&format!("pierhead: {error}\n"));
            Exit::No
        }
        Err(error) => {
            console.complain(&format!("{error}\n"));
            Exit::Usage
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serve_tells_bad_configuration_from_failure() {
        let bad = vec![("PIERHEAD_SERVER__LISEN".into(), "x".into())];
        let run = |result: Result<(), &'static str>| move |_: Config, _: Reread| result;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console::new(&mut out, &mut err);
        assert_eq!(serve(None, bad, run(Ok(())), &mut console), Exit::Usage);
        assert_eq!(serve(None, Vec::new(), run(Ok(())), &mut console), Exit::Yes);
        assert_eq!(serve(None, Vec::new(), run(Err("why")), &mut console), Exit::No);
        assert!(String::from_utf8(err).unwrap().ends_with("pierhead: why\n"));
        assert!(out.is_empty());
    }
}
