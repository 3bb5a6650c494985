//! The sheet of a sample stage: its pictures by row (prompt, seed, strength) and column (checkpoint). Unaware of pixels.

use std::collections::BTreeMap;

use crate::engine::kind::item::Item;

/// The attribute that is the same for all pictures of one prompt and seed.
pub const ROW: &str = "row";

/// Pictures by row and column.
pub struct Sheet<'a> {
    pub columns: Vec<String>,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    prompt: &'a str,
    seed: &'a str,
    /// None where there is no LoRA.
    strength: Option<&'a str>,
    /// By column.
    cells: BTreeMap<String, &'a Item>,
}

impl<'a> Sheet<'a> {
    /// Rows in the order in which the pictures come; columns training by training, in each by the images that its checkpoints had
    /// seen. The base, which knows no strength, stands in every row of its prompt and seed.
    pub fn of(pictures: &'a [Item]) -> Self {
        let mut columns: Vec<Column> = Vec::new();
        // The pictures of each prompt and seed, in the order of their first.
        let mut groups: Vec<(&str, Vec<(String, &Item)>)> = Vec::new();
        for item in pictures {
            let column = Column::of(item);
            let label = column.label.clone();
            if !columns.iter().any(|known| known.label == label) {
                columns.push(column);
            }
            let row = attribute(item, ROW).unwrap_or_default();
            match groups.iter_mut().find(|(known, _)| *known == row) {
                Some((_, members)) => members.push((label, item)),
                None => groups.push((row, vec![(label, item)])),
            }
        }
        let rows = groups.iter().flat_map(|(_, members)| rows_of(members)).collect();
        let trainings: Vec<String> = columns.iter().map(|column| column.training.clone()).collect();
        columns.sort_by_key(|column| (trainings.iter().position(|known| *known == column.training), column.seen));
        Self { columns: columns.into_iter().map(|column| column.label).collect(), rows }
    }

    /// Row by row.
    pub fn cells(&self) -> impl Iterator<Item = Option<&'a Item>> {
        self.rows.iter().flat_map(|row| self.columns.iter().map(|column| row.cells.get(column).copied()))
    }

    /// The prompts, with seed and strength where rows differ in them.
    pub fn row_labels(&self) -> Vec<String> {
        let seeds_differ = self.rows.iter().any(|row| row.seed != self.rows[0].seed);
        let strengths_differ = self.rows.iter().any(|row| row.strength != self.rows[0].strength);
        let label = |row: &Row<'_>| {
            let seed = if seeds_differ { format!(", seed {}", row.seed) } else { String::new() };
            let strength = row.strength.filter(|_| strengths_differ).map(|strength| format!(", strength {strength}"));
            format!("{}{seed}{}", row.prompt, strength.unwrap_or_default())
        };
        self.rows.iter().map(label).collect()
    }
}

/// The pictures of one checkpoint, or of the base.
struct Column {
    label: String,
    /// The variant of the training, if there are several.
    training: String,
    /// Images that the checkpoint had seen; none for the base.
    seen: u64,
}

impl Column {
    fn of(picture: &Item) -> Self {
        let (name, _) = picture.name.rsplit_once('/').unwrap_or((&picture.name, ""));
        let training = name.rsplit_once('/').map_or("", |(variant, _)| variant);
        let label = match (attribute(picture, "epoch"), training) {
            (Some(epoch), "") => format!("epoch {epoch}"),
            (Some(epoch), variant) => format!("{variant}, epoch {epoch}"),
            (None, _) => name.to_string(),
        };
        let seen = attribute(picture, "step").and_then(|seen| seen.parse().ok()).unwrap_or(0);
        Self { label, training: training.to_string(), seen }
    }
}

/// One row for each strength of a prompt and seed.
fn rows_of<'a>(members: &[(String, &'a Item)]) -> Vec<Row<'a>> {
    let mut strengths: Vec<Option<&str>> = Vec::new();
    for strength in members.iter().filter_map(|(_, item)| attribute(item, "strength")) {
        if !strengths.contains(&Some(strength)) {
            strengths.push(Some(strength));
        }
    }
    if strengths.is_empty() {
        strengths.push(None);
    }
    let first = members[0].1;
    let (prompt, seed) = (attribute(first, "prompt").unwrap_or_default(), attribute(first, "seed").unwrap_or_default());
    let row = |strength| {
        let belongs = |item: &Item| attribute(item, "strength").is_none_or(|own| Some(own) == strength);
        let cells = members.iter().filter(|(_, item)| belongs(item)).map(|(column, item)| (column.clone(), *item)).collect();
        Row { prompt, seed, strength, cells }
    };
    strengths.into_iter().map(row).collect()
}

fn attribute<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.attributes.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cache::digest::Digest;
    use crate::engine::kind::item::Fields;

    fn picture(name: &str, attributes: &[(&str, &str)]) -> Item {
        let attributes = attributes.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Item { name: name.into(), origin: None, fields: Fields::new(), attributes, key: Digest::of(name.as_bytes()) }
    }

    fn names(sheet: &Sheet<'_>) -> Vec<String> {
        sheet.cells().map(|cell| cell.map_or("-".to_string(), |item| item.name.clone())).collect()
    }

    #[test]
    fn checkpoints_stand_beside_the_base() {
        let a = [(ROW, "p1-s7"), ("prompt", "a cat"), ("seed", "7")];
        let b = [(ROW, "p2-s7"), ("prompt", "a dog"), ("seed", "7")];
        let lora = |row: &[(&'static str, &'static str)]| [row, &[("epoch", "20"), ("strength", "1")]].concat();
        let pictures =
            [picture("base/p1", &a), picture("base/p2", &b), picture("e020/p1", &lora(&a)), picture("e020/p2", &lora(&b))];
        let sheet = Sheet::of(&pictures);
        assert_eq!(sheet.columns, ["base", "epoch 20"]);
        assert_eq!(sheet.row_labels(), ["a cat", "a dog"]);
        assert_eq!(names(&sheet), ["base/p1", "e020/p1", "base/p2", "e020/p2"]);
    }

    #[test]
    fn checkpoints_of_several_trainings_have_columns_of_their_own() {
        let row = [(ROW, "p1-s7"), ("prompt", "a cat"), ("seed", "7"), ("epoch", "20"), ("strength", "1")];
        let pictures = [picture("rank=4/e020/p1", &row), picture("rank=8/e020/p1", &row)];
        let sheet = Sheet::of(&pictures);
        assert_eq!(sheet.columns, ["rank=4, epoch 20", "rank=8, epoch 20"]);
        assert_eq!(names(&sheet), ["rank=4/e020/p1", "rank=8/e020/p1"]);
    }

    #[test]
    fn columns_go_by_the_images_that_were_seen() {
        let base = [(ROW, "p1-s7"), ("prompt", "a cat"), ("seed", "7")];
        let at = |epoch: Option<&'static str>, step: &'static str| {
            let epoch = epoch.map(|epoch| ("epoch", epoch));
            [&base[..], &[("step", step), ("strength", "1")], epoch.as_slice()].concat()
        };
        // In the order of their names.
        let pictures = [
            picture("base/p1", &base),
            picture("e1000/p1", &at(Some("1000"), "24000")),
            picture("e200/p1", &at(Some("200"), "4800")),
            picture("s00012345/p1", &at(None, "12345")),
        ];
        assert_eq!(Sheet::of(&pictures).columns, ["base", "epoch 200", "s00012345", "epoch 1000"]);
        let of_two = [
            picture("rank=4/e1000/p1", &at(Some("1000"), "24000")),
            picture("rank=4/e200/p1", &at(Some("200"), "4800")),
            picture("rank=8/e1000/p1", &at(Some("1000"), "24000")),
            picture("rank=8/e200/p1", &at(Some("200"), "4800")),
        ];
        let sheet = Sheet::of(&of_two);
        assert_eq!(sheet.columns, ["rank=4, epoch 200", "rank=4, epoch 1000", "rank=8, epoch 200", "rank=8, epoch 1000"]);
        assert_eq!(names(&sheet), ["rank=4/e200/p1", "rank=4/e1000/p1", "rank=8/e200/p1", "rank=8/e1000/p1"]);
    }

    #[test]
    fn the_base_stands_in_the_row_of_each_strength() {
        let base = [(ROW, "p1-s7"), ("prompt", "a cat"), ("seed", "7")];
        let at = |strength: &'static str| [&base[..], &[("epoch", "20"), ("strength", strength)]].concat();
        let pictures = [picture("base/p1", &base), picture("e020/p1-w0.5", &at("0.5")), picture("e020/p1-w1", &at("1"))];
        let sheet = Sheet::of(&pictures);
        assert_eq!(sheet.row_labels(), ["a cat, strength 0.5", "a cat, strength 1"]);
        assert_eq!(names(&sheet), ["base/p1", "e020/p1-w0.5", "base/p1", "e020/p1-w1"]);
    }

    #[test]
    fn a_picture_that_is_missing_leaves_its_place_empty() {
        let row = |row: &'static str, seed: &'static str| [(ROW, row), ("prompt", "a cat"), ("seed", seed)];
        let lora = [&row("p1-s8", "8")[..], &[("epoch", "20"), ("strength", "1")]].concat();
        let pictures = [picture("base/p1-s7", &row("p1-s7", "7")), picture("e020/p1-s8", &lora)];
        let sheet = Sheet::of(&pictures);
        assert_eq!(names(&sheet), ["base/p1-s7", "-", "-", "e020/p1-s8"]);
        assert_eq!(sheet.row_labels(), ["a cat, seed 7", "a cat, seed 8, strength 1"]);
    }
}
