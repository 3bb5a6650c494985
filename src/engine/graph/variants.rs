//! Which variants each stage has, and which of them a reference takes. A stage has the axes of its own matrix and those of the
//! stages it reads; references that carry the same axis are joined, different axes are crossed. Unaware of YAML and of what an
//! axis varies.

use std::collections::BTreeMap;

use crate::graph::matrix::Axis;
use crate::graph::stage_keys::{MOST_VARIANTS, VARIANTS};
use crate::graph::variant::{Coordinate, Variant, is_called};
use crate::kind::input_use::{InputShape, InputUse};
use crate::kind::reference::{Pick, Reference};
use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::tree::Span;

/// Variants of all stages together: few enough to load each.
const MOST_IN_ALL: usize = 10_000;

/// A stage of the file, as far as its variants are concerned.
pub struct Sketch<'a> {
    pub name: &'a str,
    pub span: &'a Span,
    pub axes: &'a [Axis],
    pub limit: Option<u64>,
    /// What it reads, in whichever variant.
    pub reads: Vec<InputUse>,
    /// People may edit its texts, and these have one place.
    pub is_editable: bool,
}

/// A stage that a reference leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `train[rank=8]`
    pub stage: String,
    /// Where the reference takes several variants together: `rank=8`, put before the names of its items.
    pub collected: Option<String>,
}

/// The variants of all stages.
pub struct Variants {
    axes: Vec<AxisNames>,
    stages: BTreeMap<String, OfStage>,
}

struct AxisNames {
    full_name: String,
    name: String,
    values: Vec<String>,
    span: Span,
}

#[derive(Clone, Default)]
struct OfStage {
    axes: Vec<usize>,
    variants: Vec<Variant>,
}

/// What a reference makes of one axis of the stage it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// The reader's own value: the reader has the axis too.
    Follow,
    Only(usize),
    Every,
}

impl Variants {
    /// Works them out; misuse is reported, and a stage in which something is wrong has one variant.
    pub fn of(sketches: &[Sketch<'_>], diagnostics: &mut Diagnostics) -> Self {
        let mut variants = Self { axes: named_axes(sketches), stages: BTreeMap::new() };
        let Some(order) = order(sketches) else {
            // A cycle is reported where stages are joined, once and not for each variant.
            variants.axes.clear();
            variants.stages = sketches.iter().map(|sketch| (sketch.name.to_string(), OfStage::single())).collect();
            return variants;
        };
        let mut count = 0;
        for sketch in order.into_iter().map(|index| &sketches[index]) {
            let axes = variants.axes_of(sketch, diagnostics);
            let mut of_stage = variants.product(sketch, axes, diagnostics);
            count += of_stage.variants.len();
            if count > MOST_IN_ALL && of_stage.variants.len() > 1 {
                diagnostics.report(
                    sketch.span,
                    format!("up to this stage there are {count} variants in all: at most {MOST_IN_ALL} fit"),
                );
                count -= of_stage.variants.len();
                of_stage = OfStage::single();
            }
            variants.stages.insert(sketch.name.to_string(), of_stage);
        }
        variants
    }

    /// The variants of a stage, at least one.
    pub fn of_stage(&self, name: &str) -> Vec<Variant> {
        self.stages.get(name).map_or_else(|| vec![Variant::default()], |stage| stage.variants.clone())
    }

    /// Whether a stage of the file is called so.
    pub fn has(&self, name: &str) -> bool {
        self.stages.contains_key(name)
    }

    /// The stages that a reference in `reader` leads to. A name that is no stage of the file leads to itself.
    pub fn sources(&self, reader: &Variant, reference: &Reference) -> Vec<Source> {
        let (owner, below) = split_sub_stage(&reference.name);
        let alone = || vec![Source { stage: reference.name.clone(), collected: None }];
        let Some(stage) = self.stages.get(owner) else { return alone() };
        let Ok(choices) = self.choices(stage, reference) else { return Vec::new() };
        let is_collecting = choices.contains(&Choice::Every);
        let fits = |variant: &&Variant| {
            variant.0.iter().zip(&choices).all(|(coordinate, choice)| match choice {
                Choice::Every => true,
                Choice::Only(index) => coordinate.index == *index,
                Choice::Follow => reader.0.contains(coordinate),
            })
        };
        let collected = |variant: &Variant| {
            let every = variant.0.iter().zip(&choices).filter(|(_, choice)| **choice == Choice::Every);
            Variant(every.map(|(coordinate, _)| coordinate.clone()).collect()).folder()
        };
        stage
            .variants
            .iter()
            .filter(fits)
            .map(|variant| Source {
                stage: format!("{}{below}", variant.name_of(owner)),
                collected: is_collecting.then(|| collected(variant)),
            })
            .collect()
    }

    /// The axes of a stage, those of what it reads first.
    fn axes_of(&self, sketch: &Sketch<'_>, diagnostics: &mut Diagnostics) -> Vec<usize> {
        let mut axes: Vec<usize> = Vec::new();
        for reads in &sketch.reads {
            let reference = &reads.reference;
            let (owner, _) = split_sub_stage(&reference.name);
            let Some(stage) = self.stages.get(owner).filter(|_| owner != sketch.name) else {
                continue;
            };
            match self.choices(stage, reference) {
                Ok(choices) => {
                    if choices.contains(&Choice::Every) && reads.shape == InputShape::One {
                        diagnostics
                            .report(&reference.span, format!("`{}` takes one, and `{reference}` collects several", reads.param))
                            .hint(self.example(stage, owner));
                    }
                    let carried = stage.axes.iter().zip(choices).filter(|(_, choice)| *choice == Choice::Follow);
                    axes.extend(carried.map(|(axis, _)| *axis));
                }
                Err(problem) => self.report(problem, stage, owner, reference, diagnostics),
            }
        }
        let is_own = |axis: &&AxisNames| sketch.axes.iter().any(|own| own.full_name == axis.full_name);
        axes.extend(self.axes.iter().enumerate().filter(|(_, axis)| is_own(axis)).map(|(index, _)| index));
        let mut once = Vec::new();
        axes.retain(|axis| {
            !once.contains(axis) && {
                once.push(*axis);
                true
            }
        });
        if sketch.is_editable && !axes.is_empty() {
            let above = &self.axes[axes[0]];
            diagnostics
                .report(sketch.span, format!("people edit the texts of `{}`, so it can have no variants", sketch.name))
                .also(&above.span, "this gives it some")
                .hint("put the matrix on a stage that comes later, or read one variant: `[axis=value]`");
            axes.clear();
        }
        axes
    }

    /// Every combination of the values of `axes`, the last varying fastest.
    fn product(&self, sketch: &Sketch<'_>, axes: Vec<usize>, diagnostics: &mut Diagnostics) -> OfStage {
        let sizes: Vec<u64> = axes.iter().map(|&axis| self.axes[axis].values.len() as u64).collect();
        let count = sizes.iter().fold(1u64, |product, size| product.saturating_mul(*size));
        if count > sketch.limit.unwrap_or(VARIANTS) {
            let factors: Vec<String> =
                axes.iter().zip(&sizes).map(|(&axis, size)| format!("{size} of `{}`", self.axes[axis].name)).collect();
            let of = if factors.len() > 1 { format!(": {}", factors.join(" \u{d7} ")) } else { String::new() };
            let allowed =
                sketch.limit.map_or(format!("without `limit:` at most {VARIANTS}"), |limit| format!("`limit` allows {limit}"));
            diagnostics.report(sketch.span, format!("`{}` has {count} variants{of}; {allowed}", sketch.name)).hint(
                if count <= MOST_VARIANTS {
                    format!("`limit: {count}` on this stage allows them")
                } else {
                    "read one variant of a stage, `[axis=value]`, or all of them together, `[*]`".to_string()
                },
            );
            return OfStage::single();
        }
        let mut variants = vec![Variant::default()];
        for &axis in &axes {
            let names = &self.axes[axis];
            let values = || names.values.iter().enumerate();
            let with = |variant: &Variant, (index, value): (usize, &String)| {
                let mut coordinates = variant.0.clone();
                let (full_name, name, value) = (names.full_name.clone(), names.name.clone(), value.clone());
                coordinates.push(Coordinate { full_name, name, index, value });
                Variant(coordinates)
            };
            variants = variants.iter().flat_map(|variant| values().map(move |value| with(variant, value))).collect();
        }
        OfStage { axes, variants }
    }

    /// What a reference makes of each axis of the stage it names.
    fn choices(&self, stage: &OfStage, reference: &Reference) -> Result<Vec<Choice>, Problem> {
        let mut choices = vec![Choice::Follow; stage.axes.len()];
        let place = |wanted: &str| {
            let called = |(_, axis): &(usize, &usize)| is_called(&self.axes[**axis].full_name, wanted);
            match stage.axes.iter().enumerate().filter(called).map(|(place, _)| place).collect::<Vec<_>>().as_slice() {
                [place] => Ok(*place),
                [] if stage.axes.is_empty() => Err(Problem::NoVariants),
                [] => Err(Problem::NoAxis(wanted.to_string())),
                _ => Err(Problem::Ambiguous(wanted.to_string())),
            }
        };
        for pick in &reference.picks {
            let (axis, choice) = match pick {
                Pick::Every if stage.axes.is_empty() => return Err(Problem::NoVariants),
                Pick::Every => continue,
                Pick::EveryValue { axis } => (axis, Choice::Every),
                Pick::Value { axis, value } => {
                    let values = &self.axes[stage.axes[place(axis)?]].values;
                    let Some(index) = values.iter().position(|known| known == value) else {
                        return Err(Problem::NoValue { axis: axis.clone(), value: value.clone() });
                    };
                    (axis, Choice::Only(index))
                }
            };
            let place = place(axis)?;
            if choices[place] != Choice::Follow {
                return Err(Problem::Twice(axis.clone()));
            }
            choices[place] = choice;
        }
        if reference.picks.contains(&Pick::Every) {
            choices.iter_mut().filter(|choice| **choice == Choice::Follow).for_each(|choice| *choice = Choice::Every);
        }
        Ok(choices)
    }

    fn report(&self, problem: Problem, stage: &OfStage, name: &str, reference: &Reference, diagnostics: &mut Diagnostics) {
        let axes: Vec<&str> = stage.axes.iter().map(|&axis| self.axes[axis].name.as_str()).collect();
        match problem {
            Problem::NoVariants => {
                diagnostics
                    .report(&reference.span, format!("`{name}` has no variants to pick from"))
                    .hint("neither it nor what it reads has a `matrix`");
            }
            // The axis that is meant may be one that has a wrong name itself.
            Problem::NoAxis(_) if stage.axes.iter().any(|&axis| diagnostics.is_wrong_at(&self.axes[axis].span)) => {}
            Problem::NoAxis(wanted) => {
                let listed: Vec<String> = axes.iter().map(|axis| format!("`{axis}`")).collect();
                diagnostics
                    .report(&reference.span, format!("`{name}` has no axis `{wanted}`"))
                    .hint(format!("it has {}", listed.join(", ")))
                    .did_you_mean(&wanted, axes.iter().copied());
            }
            Problem::Ambiguous(wanted) => {
                let of_stage = || stage.axes.iter().map(|&axis| &self.axes[axis]);
                let full: Vec<String> = of_stage()
                    .filter(|axis| is_called(&axis.full_name, &wanted))
                    .map(|axis| format!("`{}`", axis.name))
                    .collect();
                diagnostics
                    .report(&reference.span, format!("`{wanted}` could be {}", full.join(" or ")))
                    .hint("write more of its path");
            }
            Problem::NoValue { axis, value } => {
                let known = stage.axes.iter().map(|&known| &self.axes[known]).find(|known| is_called(&known.full_name, &axis));
                let problem = diagnostics.report(&reference.span, format!("`{axis}` of `{name}` has no value {value}"));
                if let Some(known) = known {
                    problem.also(&known.span, "its values stand here").hint(format!("it has {}", listed(&known.values)));
                }
            }
            Problem::Twice(axis) => {
                diagnostics.report(&reference.span, format!("`{axis}` is picked twice"));
            }
        }
    }

    fn example(&self, stage: &OfStage, name: &str) -> String {
        let first = stage.variants.first().map(|variant| variant.name_of(name)).unwrap_or_default();
        format!("pick one, as in `{first}`, or write `{name}` to have a variant for each")
    }
}

impl OfStage {
    fn single() -> Self {
        Self { axes: Vec::new(), variants: vec![Variant::default()] }
    }
}

/// What is wrong with the picks of a reference.
enum Problem {
    NoVariants,
    NoAxis(String),
    Ambiguous(String),
    NoValue { axis: String, value: String },
    Twice(String),
}

/// Every axis with the shortest tail of its full name that no other has.
fn named_axes(sketches: &[Sketch<'_>]) -> Vec<AxisNames> {
    let axes: Vec<&Axis> = sketches.iter().flat_map(|sketch| sketch.axes).collect();
    let is_unique = |tail: &str| axes.iter().filter(|axis| is_called(&axis.full_name, tail)).count() == 1;
    axes.iter()
        .map(|axis| {
            let full_name = axis.full_name.clone();
            let starts = full_name.rmatch_indices('.').map(|(at, _)| at + 1).chain([0]);
            let name = starts.map(|start| &full_name[start..]).find(|tail| is_unique(tail)).unwrap_or(&full_name).to_string();
            let values = axis.values.iter().map(|value| value.spelling.clone()).collect();
            AxisNames { full_name, name, values, span: axis.span.clone() }
        })
        .collect()
}

/// The stage that is written in the file, and what follows its name: `train` and `/latents`.
fn split_sub_stage(name: &str) -> (&str, &str) {
    name.split_at(name.find('/').unwrap_or(name.len()))
}

/// The stages in an order in which each comes after those it reads; `None` if there is a cycle.
fn order(sketches: &[Sketch<'_>]) -> Option<Vec<usize>> {
    let places: BTreeMap<&str, usize> = sketches.iter().enumerate().map(|(index, sketch)| (sketch.name, index)).collect();
    let producers: Vec<Vec<usize>> = sketches
        .iter()
        .enumerate()
        .map(|(index, sketch)| {
            let owners = sketch.reads.iter().filter_map(|reads| {
                let (owner, below) = split_sub_stage(&reads.reference.name);
                // A stage reads what belongs to it; that is no cycle.
                places.get(owner).copied().filter(|&producer| producer != index || below.is_empty())
            });
            owners.collect()
        })
        .collect();
    // Ready stages are taken in the order of the file, without calls as deep as the longest chain.
    let mut missing: Vec<usize> = producers.iter().map(Vec::len).collect();
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); sketches.len()];
    for (reader, producers) in producers.iter().enumerate() {
        producers.iter().for_each(|&producer| readers[producer].push(reader));
    }
    let mut ready: Vec<usize> = (0..sketches.len()).rev().filter(|&index| missing[index] == 0).collect();
    let mut order = Vec::with_capacity(sketches.len());
    while let Some(index) = ready.pop() {
        order.push(index);
        for &reader in &readers[index] {
            missing[reader] -= 1;
            if missing[reader] == 0 {
                ready.push(reader);
            }
        }
    }
    (order.len() == sketches.len()).then_some(order)
}

/// At most ten values.
fn listed(values: &[String]) -> String {
    match values.get(10) {
        Some(_) => format!("{} and {} more", values[..9].join(", "), values.len() - 9),
        None => values.join(", "),
    }
}
