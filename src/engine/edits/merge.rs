//! Brings together what a person and the machine made of the same text: tags between commas as sets, prose word by word. Pure:
//! unaware of files and of who decides.
//!
//! Both ways are three-way merges: what one side changed against the text that both started from is taken, what both changed in
//! the same place and not alike is a conflict. Sets have none. Words are compared without the space before them, which goes with
//! its word.

use std::collections::HashSet;
use std::fmt;

/// How a text is taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As tags if all texts look like tags, else as prose.
    #[default]
    AsItLooks,
    /// `1girl, red hair`
    Tags,
    /// `a girl with red hair`
    Prose,
}

/// Both sides changed the same words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub before: String,
    pub mine: String,
    pub machine: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |text: &str| if text.is_empty() { "nothing".to_string() } else { format!("`{text}`") };
        let (before, mine, machine) = (said(&self.before), said(&self.mine), said(&self.machine));
        write!(f, "where the machine said {before}, you say {mine} and it now says {machine}")
    }
}

/// `mine` with what the machine changed from `before` to `machine`.
pub fn merge(before: &str, mine: &str, machine: &str, form: Form) -> Result<String, Conflict> {
    if mine == machine || before == machine {
        return Ok(mine.to_string());
    }
    if mine == before {
        return Ok(machine.to_string());
    }
    let as_tags = match form {
        Form::AsItLooks => are_tags(&[before, mine, machine]),
        Form::Tags => true,
        Form::Prose => false,
    };
    if as_tags { Ok(merge_tags(before, mine, machine)) } else { merge_prose(before, mine, machine) }
}

/// A line of pieces between commas, each of few words and none a sentence; one of the texts must have a comma.
fn are_tags(texts: &[&str]) -> bool {
    /// Danbooru's tags rarely have more: `hand on own hip`, `holding hands with another`.
    const WORDS: usize = 4;
    let is_tag = |tag: &str| tag.split_whitespace().count() <= WORDS && !tag.ends_with(['.', '!', '?']);
    texts.iter().any(|text| text.contains(',')) && texts.iter().all(|text| !text.contains('\n') && tags(text).all(is_tag))
}

fn tags(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '\n']).map(str::trim).filter(|tag| !tag.is_empty())
}

/// The machine's new tags come last, in its order.
fn merge_tags(before: &str, mine: &str, machine: &str) -> String {
    let said_before: HashSet<&str> = tags(before).collect();
    let says_now: HashSet<&str> = tags(machine).collect();
    let taken_back = |tag: &&str| said_before.contains(tag) && !says_now.contains(tag);
    let mut merged: Vec<&str> = tags(mine).filter(|tag| !taken_back(tag)).collect();
    let kept = merged.len();
    let mut present: HashSet<&str> = tags(mine).collect();
    for tag in tags(machine).filter(|tag| !said_before.contains(tag)) {
        if present.insert(tag) {
            merged.push(tag);
        }
    }
    if merged.len() == kept && kept == tags(mine).count() {
        return mine.to_string();
    }
    // As the person separates them.
    let separator = if mine.contains(',') && !mine.contains(", ") { "," } else { ", " };
    merged.join(separator)
}

fn merge_prose(before: &str, mine: &str, machine: &str) -> Result<String, Conflict> {
    let (before, mine, machine) = (words(before), words(mine), words(machine));
    let in_mine = matches(&before, &mine);
    let in_machine = matches(&before, &machine);
    let mut merged = String::new();
    let (mut b, mut m, mut t) = (0, 0, 0);
    loop {
        // The next word that all three have.
        let stable = (b..before.len()).find_map(|at| Some((at, in_mine[at]?, in_machine[at]?)));
        let (next_b, next_m, next_t) = stable.unwrap_or((before.len(), mine.len(), machine.len()));
        let (old, ours, theirs) = (&before[b..next_b], &mine[m..next_m], &machine[t..next_t]);
        let taken = if same(theirs, old) || same(ours, theirs) {
            ours
        } else if same(ours, old) {
            theirs
        } else {
            return Err(Conflict { before: joined(old), mine: joined(ours), machine: joined(theirs) });
        };
        taken.iter().for_each(|word| word.append_to(&mut merged));
        if stable.is_none() {
            return Ok(merged);
        }
        // The space before it as the person has it, unless only the machine changed that.
        let word = if mine[next_m].space == before[next_b].space { machine[next_t] } else { mine[next_m] };
        word.append_to(&mut merged);
        (b, m, t) = (next_b + 1, next_m + 1, next_t + 1);
    }
}

/// A part of the way from one text to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Same(String),
    Removed(String),
    Added(String),
}

/// The way from `old` to `new` in words. All parts but the removed ones together are `new`.
pub fn difference(old: &str, new: &str) -> Vec<Part> {
    let (old, new) = (words(old), words(new));
    let in_new = matches(&old, &new);
    let mut parts = Vec::new();
    let mut push = |make: fn(String) -> Part, words: &[Word<'_>]| {
        let mut text = String::new();
        words.iter().for_each(|word| word.append_to(&mut text));
        if !text.is_empty() {
            parts.push(make(text));
        }
    };
    let (mut o, mut n) = (0, 0);
    while o < old.len() || n < new.len() {
        let run = (o..old.len()).zip(n..new.len()).take_while(|&(at, to)| in_new[at] == Some(to)).count();
        push(Part::Same, &new[n..n + run]);
        (o, n) = (o + run, n + run);
        let next = (o..old.len()).find_map(|at| Some((at, in_new[at]?))).unwrap_or((old.len(), new.len()));
        push(Part::Removed, &old[o..next.0]);
        push(Part::Added, &new[n..next.1]);
        (o, n) = next;
    }
    parts
}

/// A word, or a sign between words, with the space before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word<'t> {
    space: &'t str,
    text: &'t str,
}

impl Word<'_> {
    fn append_to(&self, text: &mut String) {
        text.push_str(self.space);
        text.push_str(self.text);
    }
}

fn words(text: &str) -> Vec<Word<'_>> {
    let belongs_to_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '\'' | '’');
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        let start = rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len());
        let (space, after) = rest.split_at(start);
        let Some(first) = after.chars().next() else { return words };
        let end = match belongs_to_word(first) {
            true => after.find(|c: char| !belongs_to_word(c)).unwrap_or(after.len()),
            false => first.len_utf8(),
        };
        let (word, after) = after.split_at(end);
        words.push(Word { space, text: word });
        rest = after;
    }
}

fn same(one: &[Word<'_>], other: &[Word<'_>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.text == b.text)
}

fn joined(words: &[Word<'_>]) -> String {
    let mut text = String::new();
    words.iter().for_each(|word| word.append_to(&mut text));
    text.trim().to_string()
}

/// For each word of `old` its place in `new`: a longest common subsequence. Of texts too long for that only the ends are
/// compared.
fn matches(old: &[Word<'_>], new: &[Word<'_>]) -> Vec<Option<usize>> {
    /// Cells of the table, 4 bytes each: 2000 by 2000 words, where a caption has less than a hundred.
    const LARGEST: usize = 4_000_000;
    let mut found = vec![None; old.len()];
    let head = old.iter().zip(new).take_while(|(a, b)| a.text == b.text).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a.text == b.text).count();
    for (at, found) in found.iter_mut().enumerate().take(head) {
        *found = Some(at);
    }
    for back in 1..=tail {
        found[old.len() - back] = Some(new.len() - back);
    }
    let (middle_old, middle_new) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let width = middle_new.len() + 1;
    if middle_old.is_empty() || middle_new.is_empty() || (middle_old.len() + 1).saturating_mul(width) > LARGEST {
        return found;
    }
    // Length of the longest common subsequence of what begins at each pair of places.
    let mut longest = vec![0u32; (middle_old.len() + 1) * width];
    for o in (0..middle_old.len()).rev() {
        for n in (0..middle_new.len()).rev() {
            longest[o * width + n] = match middle_old[o].text == middle_new[n].text {
                true => longest[(o + 1) * width + n + 1] + 1,
                false => longest[(o + 1) * width + n].max(longest[o * width + n + 1]),
            };
        }
    }
    let (mut o, mut n) = (0, 0);
    while o < middle_old.len() && n < middle_new.len() {
        if middle_old[o].text == middle_new[n].text {
            found[head + o] = Some(head + n);
            (o, n) = (o + 1, n + 1);
        } else if longest[(o + 1) * width + n] >= longest[o * width + n + 1] {
            o += 1;
        } else {
            n += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(before: &str, mine: &str, machine: &str) -> String {
        merge(before, mine, machine, Form::AsItLooks).unwrap()
    }

    #[test]
    fn tags_merge_as_sets_in_my_order() {
        // I took `hat` out and put `smile` in; the machine took `blue sky` back and found `beach` and `sand`.
        let now = merged("1girl, hat, blue sky", "1girl, smile, blue sky", "1girl, hat, beach, sand");
        assert_eq!(now, "1girl, smile, beach, sand");
        // What both found is there once; what I took out stays out.
        assert_eq!(merged("a, b", "c, a", "a, b, c"), "c, a");
        assert_eq!(merged("a,b", "b,x", "a,c"), "x,c");
        // Without anything that the machine had said before.
        assert_eq!(merged("", "1girl, smile", "1girl, hat"), "1girl, smile, hat");
    }

    #[test]
    fn prose_merges_word_by_word() {
        let before = "a photo of a star on white";
        assert_eq!(
            merged(before, "a photo of a red star on white", "a drawing of a star on white"),
            "a drawing of a red star on white"
        );
        assert_eq!(merged(before, "a photo of a star", "a big photo of a star on white"), "a big photo of a star");
        assert_eq!(
            merged(before, "a photo of a star on white, by hand", "photo of a star on white"),
            "photo of a star on white, by hand"
        );
        assert_eq!(merged(before, before, "something else"), "something else");
        assert_eq!(merged(before, "mine", before), "mine");
        assert_eq!(merged(before, "both say this now", "both say this now"), "both say this now");
        assert_eq!(merged("one two.\nthree four", "one two.\nthree 4", "ONE two.\nthree four"), "ONE two.\nthree 4");
    }

    #[test]
    fn what_both_changed_in_one_place_is_a_conflict_in_its_words() {
        let conflict = merge("a star on white", "a red star on white", "a blue star on white", Form::AsItLooks).unwrap_err();
        assert_eq!(conflict, Conflict { before: String::new(), mine: "red".into(), machine: "blue".into() });
        let conflict = merge("a star on white", "a sun on white", "a moon on white", Form::AsItLooks).unwrap_err();
        assert_eq!(conflict.to_string(), "where the machine said `star`, you say `sun` and it now says `moon`");
        // As sets there is none.
        assert_eq!(merge("star", "sun", "moon", Form::Tags).unwrap(), "sun, moon");
    }

    #[test]
    fn sentences_with_commas_are_prose() {
        assert!(are_tags(&["1girl, looking at viewer", "", "solo"]));
        assert!(!are_tags(&["a star", "a red star"]), "nothing says that these are tags");
        assert!(!are_tags(&["a man in a red shirt, smiling", "a man"]));
        assert!(!are_tags(&["a star, on white.", "a star"]));
        assert!(!are_tags(&["a, b", "a\nb"]));
    }

    #[test]
    fn a_difference_gives_the_new_text_back() {
        let parts = difference("a star on white", "a red star on black");
        let expected = [
            Part::Same("a".into()),
            Part::Added(" red".into()),
            Part::Same(" star on".into()),
            Part::Removed(" white".into()),
            Part::Added(" black".into()),
        ];
        assert_eq!(parts, expected);
        for (old, new) in [("", "a b"), ("a b", ""), ("a b c", "c b a"), ("x, y\nz", "x; y\n\nz"), ("a", "a")] {
            let text = |keep: fn(&Part) -> bool| {
                let text = |part: &Part| match part {
                    Part::Same(text) | Part::Removed(text) | Part::Added(text) => text.clone(),
                };
                difference(old, new).iter().filter(|part| keep(part)).map(text).collect::<String>()
            };
            assert_eq!(text(|part| !matches!(part, Part::Removed(_))), new);
        }
    }

    #[test]
    fn a_merge_treats_both_sides_alike_and_a_second_one_of_tags_changes_nothing() {
        // A sample of all texts of up to four words out of three.
        let mut texts = vec![String::new()];
        for length in 1..=4 {
            for number in 0..3u32.pow(length) {
                let word = |place| ["a", "b", "c"][(number / 3u32.pow(place) % 3) as usize];
                texts.push((0..length).map(word).collect::<Vec<_>>().join(" "));
            }
        }
        let some: Vec<&String> = texts.iter().step_by(3).collect();
        let mut merges = 0;
        for (before, mine) in some.iter().flat_map(|before| some.iter().map(move |mine| (*before, *mine))) {
            for machine in &some {
                let outcome = merge(before, mine, machine, Form::Prose);
                assert_eq!(outcome.is_ok(), merge(before, machine, mine, Form::Prose).is_ok(), "{before}|{mine}|{machine}");
                let Ok(text) = outcome else { continue };
                merges += 1;
                assert_eq!(merge(before, machine, mine, Form::Prose).as_ref(), Ok(&text), "{before}|{mine}|{machine}");
                let tags = merge(before, mine, machine, Form::Tags).unwrap();
                assert_eq!(merge(before, &tags, machine, Form::Tags), Ok(tags.clone()), "{before}|{mine}|{machine}");
            }
        }
        assert!(merges > 1000, "{merges}");
    }
}
