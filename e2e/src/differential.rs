//! `differential`: the same protocol scripts against nats-server and against the broker,
//! and every difference between the answers.

mod server;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::script::{Script, differences, parse_known, parse_transcripts};
use server::Server;

use crate::process::project_root;

/// How often a case that differs is tried again: a connection that is reset while bytes are
/// under way may lose its last line, with either server.
const TRIES: usize = 3;

/// How many scripts run at a time.
const SCRIPTS_AT_ONCE: usize = 6;

/// A case, and what differs in it.
type Outcome = (String, Option<String>);

/// Arguments of `differential`.
#[derive(Debug, clap::Args)]
pub struct DifferentialArguments {
    /// The broker to judge
    #[arg(long)]
    candidate: Option<PathBuf>,
    /// nats-server; without it the recorded answers are the measure
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Write the reference's answers beside the scripts
    #[arg(long, requires = "reference")]
    record: bool,
    /// Scripts; default: all of e2e/differential
    scripts: Vec<PathBuf>,
}

impl DifferentialArguments {
    /// Runs the scripts; an error if any case differs.
    pub fn run(&self) -> Result<()> {
        ensure!(
            self.candidate.is_some() || self.record,
            "name the broker to judge with --candidate, or --record the reference's answers"
        );
        let scripts = if self.scripts.is_empty() { all_scripts()? } else { self.scripts.clone() };
        let known_path = project_root().join("e2e/differential/known.list");
        let known = parse_known(&std::fs::read_to_string(&known_path).unwrap_or_default());
        let (mut same, mut as_known) = (0, 0);
        let (mut different, mut unlisted) = (Vec::new(), Vec::new());
        for (path, results) in scripts.iter().zip(self.run_scripts(&scripts)) {
            let results = match results {
                Ok(results) => results,
                Err(error) => vec![(path.display().to_string(), Some(format!("{error:#}\n")))],
            };
            for (case, difference) in results {
                match (difference, known.get(&case)) {
                    (None, None) => same += 1,
                    (None, Some(_)) => unlisted.push(case),
                    (Some(_), Some(_)) => as_known += 1,
                    (Some(difference), None) => {
                        println!("DIFFERENT {case}\n{difference}");
                        different.push(case);
                    }
                }
            }
        }
        println!(
            "differential: {same} cases alike, {as_known} different as {} says, {} different",
            known_path.display(),
            different.len()
        );
        if self.candidate.is_some() {
            ensure!(
                unlisted.is_empty(),
                "alike by now, take out of {}: {}",
                known_path.display(),
                unlisted.join("; ")
            );
        }
        ensure!(different.is_empty(), "different: {}", different.join("; "));
        Ok(())
    }

    /// Results of all scripts, in their order. Most of a script's time is waiting for silence, so several run at once.
    fn run_scripts(&self, paths: &[PathBuf]) -> Vec<Result<Vec<Outcome>>> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut results = Vec::new();
            loop {
                let index = next.fetch_add(1, Relaxed);
                let Some(path) = paths.get(index) else { return results };
                let begin = Instant::now();
                let result = read_script(path).and_then(|script| self.run_script(path, &script));
                let count = result.as_ref().map_or(0, Vec::len);
                println!("{}: {count} cases in {:.1} s", path.display(), begin.elapsed().as_secs_f64());
                results.push((index, result));
            }
        };
        let mut results = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..SCRIPTS_AT_ONCE).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect::<Vec<_>>()
        });
        results.sort_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }

    fn run_script(&self, path: &Path, script: &Script) -> Result<Vec<Outcome>> {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let stem = stem.unwrap_or_default();
        let reference =
            self.reference.as_deref().map(|program| Server::start(program, script)).transpose()?;
        let candidate =
            self.candidate.as_deref().map(|program| Server::start(program, script)).transpose()?;
        let recorded_path = path.with_extension("expected");
        let recorded = match (&reference, std::fs::read_to_string(&recorded_path)) {
            (None, text) => parse_transcripts(&text.with_context(|| recorded_path.display().to_string())?),
            (Some(_), _) => BTreeMap::new(),
        };
        let mut to_record = String::new();
        let mut results = Vec::new();
        for case in &script.cases {
            let expected = |server: Option<&Server>| match server {
                Some(server) => server.play(script, case),
                None => recorded.get(&case.name).cloned().with_context(|| {
                    format!("{}: no answer recorded for {:?}", recorded_path.display(), case.name)
                }),
            };
            let mut want = expected(reference.as_ref())?;
            let mut difference = None;
            if let Some(candidate) = &candidate {
                for _ in 0..TRIES {
                    let got = candidate.play(script, case)?;
                    difference = differences(&want, &got);
                    if difference.is_none() {
                        break;
                    }
                    want = expected(reference.as_ref())?;
                }
            }
            let _ = write!(to_record, "case {}\n{want}\n", case.name);
            results.push((format!("{stem}: {}", case.name), difference));
        }
        if self.record {
            std::fs::write(&recorded_path, to_record)?;
        }
        Ok(results)
    }
}

fn read_script(path: &Path) -> Result<Script> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(Script::parse(&path.display().to_string(), &text)?)
}

fn all_scripts() -> Result<Vec<PathBuf>> {
    let folder = project_root().join("e2e/differential");
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut scripts = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            scripts.push(path);
        }
    }
    scripts.sort();
    Ok(scripts)
}
