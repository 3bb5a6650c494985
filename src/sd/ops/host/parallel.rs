//! Spreads independent tasks over threads where that pays.

use rayon::prelude::*;

/// Floating-point operations below which waking a thread costs more than it brings: about 50 microseconds of work.
const WORTH_A_THREAD: usize = 1 << 20;

/// Results of `task` for 0 to `count`, in order. `work` is the cost of all in floating-point operations.
pub(in crate::sd::ops) fn collect<T: Send>(count: usize, work: usize, task: impl Fn(usize) -> T + Send + Sync) -> Vec<T> {
    map((0..count).collect(), work, task)
}

/// What `task` makes of each item, in order. `work` is the cost of all in floating-point operations.
pub(in crate::sd::ops) fn map<I: Send, T: Send>(items: Vec<I>, work: usize, task: impl Fn(I) -> T + Send + Sync) -> Vec<T> {
    if items.len() > 1 && work >= WORTH_A_THREAD {
        items.into_par_iter().with_max_len(1).map(task).collect()
    } else {
        items.into_iter().map(task).collect()
    }
}

/// Calls `task` with the index of each chunk of `values` and the chunk. `work` is the cost of all in floating-point operations.
pub(in crate::sd::ops) fn each_chunk(
    values: &mut [f32],
    length: usize,
    work: usize,
    task: impl Fn(usize, &mut [f32]) + Send + Sync,
) {
    if values.len() > length && work >= WORTH_A_THREAD {
        values.par_chunks_mut(length).with_max_len(1).enumerate().for_each(|(index, chunk)| task(index, chunk));
    } else {
        values.chunks_mut(length).enumerate().for_each(|(index, chunk)| task(index, chunk));
    }
}

/// As [`each_chunk`], over two slices in step.
pub(in crate::sd::ops) fn each_pair(
    left: (&mut [f32], usize),
    right: (&mut [f32], usize),
    work: usize,
    task: impl Fn(usize, &mut [f32], &mut [f32]) + Send + Sync,
) {
    if left.0.len() > left.1 && work >= WORTH_A_THREAD {
        let pairs = left.0.par_chunks_mut(left.1).zip(right.0.par_chunks_mut(right.1));
        pairs.with_max_len(1).enumerate().for_each(|(index, (l, r))| task(index, l, r));
    } else {
        let pairs = left.0.chunks_mut(left.1).zip(right.0.chunks_mut(right.1));
        pairs.enumerate().for_each(|(index, (l, r))| task(index, l, r));
    }
}
