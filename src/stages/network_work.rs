//! All that stages do with networks. Whatever refers to this links the libraries that compute them. Not a kind.

use crate::stages::sample::Painter;
use crate::stages::shared::linked::NetworkWork;
use crate::stages::train::Train;
use crate::stages::train::latents::LatentsParams;

/// All of it. Whatever refers to this links what it takes.
pub static NETWORK_WORK: NetworkWork = NetworkWork { encode: LatentsParams::encode, draw: Painter::draw, train: Train::teach };
