//! Which stage of a loaded pipeline is meant, and tables with a value for each. An item, a work or an input has a place too, which
//! is a number: neither can be used as the other. Unaware of what a stage is.

use std::ops::{Index, IndexMut};
use std::slice;

/// A stage of one loaded pipeline. Ids are ordered as the stages are: that of a producer is smaller than those of its consumers.
/// Another load, or another pipeline, gives others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId(usize);

/// A value for each stage of a pipeline, in the order of the stages.
#[derive(Clone, Debug)]
pub struct StageVec<T>(Vec<T>);

impl<T> StageVec<T> {
    /// Of all stages, in their order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = StageId> + ExactSizeIterator + use<T> {
        (0..self.0.len()).map(StageId)
    }

    /// Of the stages that come after `id`.
    pub fn ids_after(&self, id: StageId) -> impl Iterator<Item = StageId> + use<T> {
        self.ids().skip(id.0 + 1)
    }

    /// The values with the stages that they are of.
    pub fn iter(&self) -> impl Iterator<Item = (StageId, &T)> {
        self.ids().zip(&self.0)
    }

    /// The values alone.
    pub fn values(&self) -> slice::Iter<'_, T> {
        self.0.iter()
    }

    /// The values alone, to be changed.
    pub fn values_mut(&mut self) -> slice::IterMut<'_, T> {
        self.0.iter_mut()
    }

    /// The values alone, without the table.
    pub fn into_values(self) -> impl Iterator<Item = T> {
        self.0.into_iter()
    }

    /// A table of the same stages with `value` for each.
    pub fn filled_with<U: Clone>(&self, value: U) -> StageVec<U> {
        StageVec(vec![value; self.0.len()])
    }
}

/// The first value is that of the first stage.
impl<T> FromIterator<T> for StageVec<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl<T> Index<StageId> for StageVec<T> {
    type Output = T;

    fn index(&self, id: StageId) -> &T {
        &self.0[id.0]
    }
}

impl<T> IndexMut<StageId> for StageVec<T> {
    fn index_mut(&mut self, id: StageId) -> &mut T {
        &mut self.0[id.0]
    }
}
