//! Which items a stage takes of what it names: the selector, what `skip:` leaves out, and a file in the place of the field it
//! stands for. Unaware of where items come from and of what is fresh.

use crate::inputs::input::Skip;
use crate::kind::input_use::{InputShape, InputUse};
use crate::kind::item::{Item, ItemSet};
use crate::kind::reference::Selector;

/// Why a reference gives no items yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// What is selected may still be published.
    ForMore,
    /// `@pick`, and nothing is picked.
    ForAPick,
}

/// The items of `produced` that `reads` takes.
///
/// `complete` is false while the producer is still publishing: then what is missing is no error.
pub fn take(
    reads: &InputUse,
    produced: &[Item],
    complete: bool,
    skip: &Skip,
    pick: Option<u64>,
) -> anyhow::Result<Result<ItemSet, Waiting>> {
    let Some(mut items) = select(&reads.reference.name, &reads.reference.selector, produced, complete, pick)? else {
        let waiting = match reads.reference.selector {
            Selector::Pick if pick.is_none() => Waiting::ForAPick,
            Selector::All | Selector::Epochs(_) | Selector::Step(_) | Selector::Last | Selector::Pick => Waiting::ForMore,
        };
        return Ok(Err(waiting));
    };
    for item in &mut items {
        stand_in(item, reads);
    }
    if reads.shape == InputShape::Training {
        let before = items.len();
        items.retain(|item| !is_skipped(item, skip));
        if items.is_empty() && before > 0 && complete {
            anyhow::bail!("`skip:` leaves out all {before} items of `{}`: nothing is left to train on", reads.reference.name);
        }
    }
    if complete {
        check(reads, &items)?;
    }
    Ok(Ok(items))
}

/// True if `take` gives the items as they were produced.
pub fn takes_all(reads: &InputUse, skip: &Skip) -> bool {
    reads.reference.selector == Selector::All && (reads.shape != InputShape::Training || skip.patterns.is_empty())
}

/// True if `skip:` leaves the item out: by its name, or by that of the photo whose copy it is.
pub fn is_skipped(item: &Item, skip: &Skip) -> bool {
    skip.takes(&item.name) || item.origin.as_ref().is_some_and(|origin| skip.takes(origin))
}

/// `None` if what is selected may still come.
fn select(
    name: &str,
    selector: &Selector,
    produced: &[Item],
    complete: bool,
    pick: Option<u64>,
) -> anyhow::Result<Option<ItemSet>> {
    let by_number = |attribute: &str, wanted: &[u64]| -> anyhow::Result<Option<ItemSet>> {
        let number = |item: &Item| item.attributes.get(attribute).and_then(|n| n.parse::<u64>().ok());
        if complete && let Some(missing) = wanted.iter().find(|n| !produced.iter().any(|item| number(item) == Some(**n))) {
            let mut there: Vec<u64> = produced.iter().filter_map(number).collect();
            there.sort_unstable();
            there.dedup();
            anyhow::bail!("`{name}` has no {attribute} {missing}; it has {}", listed(&there));
        }
        let items: ItemSet = produced.iter().filter(|item| number(item).is_some_and(|n| wanted.contains(&n))).cloned().collect();
        Ok((complete || !items.is_empty()).then_some(items))
    };
    match selector {
        Selector::All => Ok((complete || !produced.is_empty()).then(|| produced.to_vec())),
        Selector::Epochs(epochs) => by_number("epoch", epochs),
        Selector::Step(step) => by_number("step", &[*step]),
        Selector::Pick => pick.map_or(Ok(None), |epoch| by_number("epoch", &[epoch])),
        Selector::Last if !complete => Ok(None),
        Selector::Last => Ok(Some(produced.iter().max_by_key(|item| place(item)).cloned().into_iter().collect())),
    }
}

/// How late an item was published.
fn place(item: &Item) -> (Option<u64>, Option<u64>) {
    let number = |attribute: &str| item.attributes.get(attribute).and_then(|n| n.parse().ok());
    (number("step"), number("epoch"))
}

fn listed(numbers: &[u64]) -> String {
    match numbers {
        [] => "none".to_string(),
        numbers => numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Lets an input that is one file be what the reader asks for.
fn stand_in(item: &mut Item, reads: &InputUse) {
    let asked = reads.field_of_file();
    if !item.fields.contains_key(asked)
        && let Some(file) = item.fields.remove("file")
    {
        item.fields.insert(asked.into(), file);
    }
}

fn check(reads: &InputUse, items: &[Item]) -> anyhow::Result<()> {
    let name = &reads.reference.name;
    match (reads.shape, items.len()) {
        (InputShape::One, 1) => {}
        (InputShape::One, 0) => anyhow::bail!("`{}` needs one item of `{name}`, found none", reads.param),
        (InputShape::One, count) => anyhow::bail!(
            "`{}` needs one item of `{name}`, found {count}: choose one with `{name}@<epoch>` or `{name}@last`",
            reads.param
        ),
        (_, 0) => anyhow::bail!("`{name}` has no items, so `{}` has nothing to read", reads.param),
        _ => {}
    }
    let Some(needed) = reads.reads.first() else { return Ok(()) };
    let lacking: Vec<&str> =
        items.iter().filter(|item| !item.fields.contains_key(*needed)).map(|item| item.name.as_str()).collect();
    if let Some(first) = lacking.first() {
        anyhow::bail!(
            "{} of {} items of `{name}` have no `{needed}`, which `{}` reads; the first is `{first}`",
            lacking.len(),
            items.len(),
            reads.param
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::cache::digest::Digest;
    use crate::kind::item::{Artifact, Fields};
    use crate::kind::reference::Reference;
    use crate::syntax::tree::{Source, Span};

    fn checkpoint(epoch: u64) -> Item {
        let artifact = Artifact { digest: Digest::of(&epoch.to_le_bytes()), size: 8, extension: "safetensors".into() };
        Item {
            name: format!("e{epoch:03}"),
            origin: None,
            fields: Fields::from([("lora", artifact)]),
            attributes: BTreeMap::from([("epoch".into(), epoch.to_string()), ("step".into(), (epoch * 94).to_string())]),
            key: Digest::of(b"key"),
        }
    }

    fn lora(selector: Selector, shape: InputShape) -> InputUse {
        let source = Arc::new(Source { name: "pipeline.yaml".into(), text: String::new() });
        InputUse {
            param: "lora".into(),
            reference: Reference { selector, ..Reference::to("train", &Span { source, start: 0, end: 0 }) },
            reads: &["lora"],
            shape,
        }
    }

    fn names(selector: Selector, complete: bool, pick: Option<u64>) -> anyhow::Result<Result<Vec<String>, Waiting>> {
        let produced: Vec<Item> = [10, 20, 30].map(checkpoint).to_vec();
        let taken = take(&lora(selector, InputShape::Many), &produced, complete, &Skip::default(), pick)?;
        Ok(taken.map(|items| items.into_iter().map(|item| item.name).collect()))
    }

    #[test]
    fn checkpoints_are_chosen_by_epoch_by_step_and_as_the_last() {
        assert_eq!(names(Selector::Epochs(vec![30, 10]), true, None).unwrap().unwrap(), ["e010", "e030"]);
        assert_eq!(names(Selector::Step(1880), true, None).unwrap().unwrap(), ["e020"]);
        assert_eq!(names(Selector::Last, true, None).unwrap().unwrap(), ["e030"]);
        assert_eq!(names(Selector::Pick, true, Some(20)).unwrap().unwrap(), ["e020"]);
        assert_eq!(names(Selector::All, true, None).unwrap().unwrap().len(), 3);
    }

    #[test]
    fn an_epoch_that_was_not_saved_is_an_error_that_names_those_that_were() {
        let error = names(Selector::Epochs(vec![25]), true, None).unwrap_err().to_string();
        assert_eq!(error, "`train` has no epoch 25; it has 10, 20, 30");
    }

    #[test]
    fn while_training_goes_on_what_is_not_there_may_still_come() {
        assert_eq!(names(Selector::Epochs(vec![40]), false, None).unwrap(), Err(Waiting::ForMore));
        assert_eq!(names(Selector::Last, false, None).unwrap(), Err(Waiting::ForMore));
        assert_eq!(names(Selector::Epochs(vec![10, 40]), false, None).unwrap().unwrap(), ["e010"]);
        assert_eq!(names(Selector::Pick, false, None).unwrap(), Err(Waiting::ForAPick));
    }

    #[test]
    fn one_item_means_one() {
        let produced: Vec<Item> = [10, 20].map(checkpoint).to_vec();
        let error = take(&lora(Selector::All, InputShape::One), &produced, true, &Skip::default(), None).unwrap_err();
        assert!(error.to_string().contains("train@last"), "{error}");
    }

    #[test]
    fn a_plain_file_stands_in_for_the_field_that_is_read() {
        let mut file = checkpoint(1);
        let artifact = file.fields.remove("lora").unwrap();
        file.fields.insert("file".into(), artifact.clone());
        let taken = take(&lora(Selector::All, InputShape::One), &[file], true, &Skip::default(), None).unwrap().unwrap();
        assert_eq!(taken[0].fields, Fields::from([("lora", artifact)]));
    }

    #[test]
    fn an_item_without_what_is_read_is_named() {
        let mut bare = checkpoint(1);
        bare.fields.clear();
        let error = take(&lora(Selector::All, InputShape::Many), &[bare], true, &Skip::default(), None).unwrap_err();
        assert!(error.to_string().contains("`e001`"), "{error}");
    }
}
