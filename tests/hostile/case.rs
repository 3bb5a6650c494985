//! One hostile thing: how it is made, which command lines are tried on it, and what must come of them. Unaware of how lines are run.

use crate::hostile::ground::Ground;

/// A file or project folder made to do harm.
pub struct Case {
    /// The row of the table that it counts in.
    pub family: &'static str,
    /// Unique within its family.
    pub name: String,
    /// The arguments of `loramill`, each line tried on a ground of its own.
    pub lines: Vec<Vec<String>>,
    expected: Expected,
    /// Takes milliseconds: tried by the tests too.
    is_light: bool,
    /// The pipeline file itself names files outside of the project as its inputs: these may be read.
    pub may_read: bool,
    build: Box<dyn Fn(&Ground) + Send + Sync>,
}

/// So many lines of a case are tried by the tests, the first ones.
#[allow(dead_code, reason = "the bench tries all lines")]
const LIGHT_LINES: usize = 2;

/// Commands that need not open a model or a photo.
const GLANCES: &[&str] = &["check", "plan", "status", "graph", "explain"];

/// What must come of every line, beside the harm that none may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Done or refused, as long as nothing happens.
    Either,
    /// Exit code 1 or 2 and this text in the message, of every command but those that only look at the pipeline.
    Refused(&'static str),
    /// Exit code 1 or 2 of every command.
    RefusedByAll,
}

impl Case {
    pub fn new(family: &'static str, name: impl Into<String>, build: impl Fn(&Ground) + Send + Sync + 'static) -> Self {
        Self {
            family,
            name: name.into(),
            lines: Vec::new(),
            expected: Expected::Either,
            is_light: true,
            may_read: false,
            build: Box::new(build),
        }
    }

    /// Command lines, words between spaces.
    pub fn lines(mut self, lines: &[&str]) -> Self {
        self.lines.extend(lines.iter().map(|line| line.split(' ').map(str::to_string).collect()));
        self
    }

    /// A command line with spaces inside its words.
    pub fn line(mut self, words: &[&str]) -> Self {
        self.lines.push(words.iter().map(|word| word.to_string()).collect());
        self
    }

    pub fn refused(mut self, text: &'static str) -> Self {
        self.expected = Expected::Refused(text);
        self
    }

    pub fn refused_by_all(mut self) -> Self {
        self.expected = Expected::RefusedByAll;
        self
    }

    /// Too large or too slow for the tests: only the bench tries it.
    pub fn heavy(mut self) -> Self {
        self.is_light = false;
        self
    }

    pub fn may_read(mut self) -> Self {
        self.may_read = true;
        self
    }

    /// What must come of one of its lines.
    pub fn expected_of(&self, line: &[String]) -> &Expected {
        match &self.expected {
            Expected::Refused(_) if GLANCES.contains(&line[0].as_str()) => &Expected::Either,
            expected => expected,
        }
    }

    /// The lines that the tests try; none of a case that only the bench tries.
    #[allow(dead_code, reason = "the bench tries all lines")]
    pub fn light_lines(&self) -> &[Vec<String>] {
        if self.is_light { &self.lines[..self.lines.len().min(LIGHT_LINES)] } else { &[] }
    }

    /// How failures name it.
    pub fn id(&self) -> String {
        format!("{}/{}", self.family, self.name)
    }

    pub fn build(&self, ground: &Ground) {
        (self.build)(ground);
    }
}
