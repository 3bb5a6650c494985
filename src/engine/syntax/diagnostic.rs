//! Problems in what the user wrote: place, problem, hint; collected, so that all come at once. Unaware of the terminal.

use crate::syntax::tree::{Node, Span};

/// One problem in a pipeline file or an argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// Lower case, backticks around names, no trailing full stop.
    pub message: String,
    pub span: Span,
    /// Another place that belongs to the problem, with a word on why: where a variable was defined, the first of two equal names.
    pub also: Option<(Span, String)>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The problems found so far.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
    /// What is being read: the kind of a stage.
    subject: Option<String>,
}

impl Diagnostics {
    /// Adds a problem, without a hint and a second place: `hint` and `also` of the result add these.
    pub fn report(&mut self, span: &Span, message: impl Into<String>) -> &mut Diagnostic {
        self.found.push(Diagnostic { message: message.into(), span: span.clone(), also: None, hint: None });
        self.found.last_mut().expect("one was just pushed")
    }

    /// What is being read from here on, for messages that name it.
    pub fn set_subject(&mut self, subject: Option<&str>) {
        self.subject = subject.map(str::to_string);
    }

    /// " for `train`", or nothing.
    pub fn for_subject(&self) -> String {
        self.subject.as_ref().map(|subject| format!(" for `{subject}`")).unwrap_or_default()
    }

    /// Whether nothing was found so far.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether something is wrong at just this place: what follows from that is no problem of its own.
    pub fn is_wrong_at(&self, span: &Span) -> bool {
        self.found.iter().any(|problem| problem.span == *span)
    }

    /// How many there are so far.
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// Takes over those of `others` that `keep` lets pass.
    pub fn absorb(&mut self, others: Self, keep: impl FnMut(&Diagnostic) -> bool) {
        self.found.extend(others.found.into_iter().filter(keep));
    }

    /// Takes over those of `others` that are not here already.
    pub fn absorb_new(&mut self, others: Self) {
        for problem in others.found {
            if !self.found.contains(&problem) {
                self.found.push(problem);
            }
        }
    }

    /// In the order in which they were found.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Diagnostic> {
        self.found.iter_mut()
    }

    /// In the order of the file, each once.
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|a, b| (&a.span.source.name, a.span.start).cmp(&(&b.span.source.name, b.span.start)));
        self.found.dedup();
        self.found
    }
}

impl Diagnostic {
    /// Says what to do about it. A second hint replaces the first.
    pub fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    /// Points to another place, with a word on why. A second one replaces the first.
    pub fn also(&mut self, span: &Span, why: impl Into<String>) -> &mut Self {
        self.also = Some((span.clone(), why.into()));
        self
    }

    /// Adds "did you mean `x`?" if one of `known` is near `wrong`.
    pub fn did_you_mean<'a>(&mut self, wrong: &str, known: impl IntoIterator<Item = &'a str>) -> &mut Self {
        if let Some(near) = nearest(wrong, known) {
            self.hint = Some(format!("did you mean `{near}`?"));
        }
        self
    }
}

/// The known name nearest to a mistyped one, if it is near enough to be meant.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The comparison takes the product of both lengths in time and memory.
    let is_name = |text: &str| text.len() <= 100;
    known
        .into_iter()
        .filter(|name| is_name(name) && is_name(wrong))
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.chars().count().max(wrong.chars().count()) / 4)
        .min()
        .map(|(_, name)| name)
}

/// Reports a value of another type.
pub fn expected<T>(node: &Node, what: &str, diagnostics: &mut Diagnostics) -> Option<T> {
    diagnostics.report(&node.span, format!("expected {what}, found {}", node.describe()));
    None
}
