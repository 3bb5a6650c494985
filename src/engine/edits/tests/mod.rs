//! The human layer as a whole: photos, a captioner, people and kills around one folder of captions.

mod desk;

mod disturbed;
mod renamed;
mod settled;
mod whose;

mod gone;
mod matrix;
mod project;
