//! The steps of a run and how long each took.
//!
//! Owns how a step is told and timed, and the table at a run's end.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// One step that was done, or that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was shown, in a user's words.
    pub name: String,
    /// Wall time of the step.
    pub took: Duration,
    /// A figure or remark of the step; empty for none.
    pub note: String,
    /// Why it failed; `None` when it did not.
    pub failure: Option<String>,
}

/// Does a step, tells that it begins and how it ended, and notes how long it took and what it remarked.
///
/// # Errors
/// The action's, with the step's name.
#[allow(clippy::print_stdout, reason = "long work shows its progress")]
pub fn timed(name: &str, action: impl FnOnce() -> Result<String>) -> (Step, Result<()>) {
    println!("… {name}");
    let start = Instant::now();
    let result = action();
    let took = start.elapsed();
    let (note, failure) = match &result {
        Ok(note) => (note.clone(), None),
        Err(error) => (String::new(), Some(format!("{error:#}"))),
    };
    match &failure {
        None => println!("ok {:.1} s  {note}", took.as_secs_f64()),
        Some(failure) => println!("FAILED {failure}"),
    }
    let step = Step { name: name.to_owned(), took, note, failure };
    (step, result.map(|_| ()).with_context(|| format!("step {name:?}")))
}

/// The steps of one run, in order.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    steps: Vec<Step>,
}

impl Steps {
    /// Adds a step at the end.
    pub fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// How many steps failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.steps.iter().filter(|step| step.failure.is_some()).count()
    }

    /// The table: a line a step with its time in seconds, then the total.
    #[must_use]
    pub fn table(&self) -> String {
        let width = self.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for step in &self.steps {
            let verdict = if step.failure.is_some() { "FAILED" } else { "ok" };
            let remark = step.failure.as_deref().unwrap_or(&step.note);
            let remark = remark.lines().next().unwrap_or("");
            let seconds = step.took.as_secs_f64();
            let line = format!("{verdict:6} {seconds:7.1} s  {:width$}  {remark}", step.name);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let total: Duration = self.steps.iter().map(|step| step.took).sum();
        let (passed, failed) = (self.steps.len() - self.failed(), self.failed());
        let _ = writeln!(text, "{passed} steps passed, {failed} failed, in {:.1} s", total.as_secs_f64());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_each_step_its_time_and_why_it_failed() {
        let mut steps = Steps::default();
        let step = |name: &str, note: &str, failure: Option<&str>| Step {
            name: name.into(),
            took: Duration::from_millis(1250),
            note: note.into(),
            failure: failure.map(Into::into),
        };
        steps.push(step("apply", "3 servers", None));
        steps.push(step("scale", "unused", Some("timed out\nlast state: 4")));
        let expected = "ok         1.2 s  apply  3 servers\n\
                        FAILED     1.2 s  scale  timed out\n\
                        1 steps passed, 1 failed, in 2.5 s\n";
        assert_eq!(steps.table(), expected);
    }
}
