//! The engine: reads a pipeline file, decides what is fresh, runs what is not. Knows nothing of images or tensors.

pub mod diagnostic;
pub mod tree;

pub mod param_values;
pub mod params;
pub mod reference;

pub mod item;
pub mod item_set;

pub mod lock_file;
pub mod lost_texts;
pub mod materialise;
mod out_manifest;
mod out_shapes;
mod shown;
pub mod stage;

pub mod inputs;
pub mod picture_files;

pub mod scalar;
pub mod spec;
pub mod syntax;
mod tree_builder;

pub mod settings;
pub mod vars;

pub mod bounds;
pub mod derived;
pub mod matrix;
pub(crate) mod names;
pub mod stage_keys;
pub mod variant;
pub mod variants;

pub mod graph;

mod checkpoints;
mod companions;
pub mod edges;
pub mod load;
mod load_stages;
pub mod sidecars;
pub mod sources;

pub mod schema;

pub mod keys;
pub mod resolve;

pub mod intake;
pub mod item_tree;

pub mod selection;

pub mod decide;
pub mod freshness;
pub mod outputs;
pub mod recorded;
pub mod taken;
pub mod texts;

mod recall;

pub mod ledger;
pub mod origin;

pub mod causes;
mod differences;
pub mod estimate;
pub mod examine;
pub mod explain;
pub mod file_account;
pub mod lints;
pub mod plan;
pub mod progress;
pub mod run_record;
pub mod text_status;

pub mod context;
pub mod guard;
pub mod wishes;

mod at_once;
pub mod commit;
pub mod execute;
mod items;
mod let_go;
mod remake;
pub mod retry;
mod whole;
mod workbench;

pub mod git;
pub(crate) mod git_program;
pub mod roots;

pub mod collect;
mod cost;
mod live;

pub mod restore;

pub mod standstill;

pub mod on_demand;
pub mod text_decisions;
