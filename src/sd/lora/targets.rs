//! Which layers a LoRA adapts, and how its factors come to stand beside them. Unaware of training.
//!
//! kohya's choice: every linear layer and 1×1 convolution of the UNet's transformers, every linear layer of the text encoder's attention
//! and perceptrons. 192 and 72 modules on SD 1.x. Names are the paths of diffusers and transformers with `_` for `.`.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::sd::lora::network::{Factor, LoraNetwork, Target};
use crate::sd::models::clip::ClipTextModel;
use crate::sd::models::layers::{AdaptedLinear, Adapter, Projection};
use crate::sd::models::unet::Unet;

/// In front of the names of the UNet's modules.
pub const UNET_PREFIX: &str = "lora_unet_";

/// In front of the names of the text encoder's modules.
pub const TEXT_PREFIX: &str = "lora_te_";

/// The layers of the UNet.
pub fn of_unet(unet: &mut Unet) -> Vec<Target> {
    let mut targets = Vec::new();
    unet.adapted(&mut |layer| targets.push(target(UNET_PREFIX, layer)));
    targets
}

/// The layers of the text encoder.
pub fn of_text_encoder(text_encoder: &mut ClipTextModel) -> Vec<Target> {
    let mut targets = Vec::new();
    text_encoder.adapted(&mut |layer| targets.push(target(TEXT_PREFIX, layer)));
    targets
}

/// The factors of a network on a device, in the order of the network.
pub struct Placed {
    factors: Vec<Tensor<2>>,
    /// Index of a module's `down` in `factors`; its `up` follows.
    places: BTreeMap<String, usize>,
    scale: f64,
}

impl Placed {
    /// Copies the factors to `device`. They require gradients if it is one with autodiff.
    pub fn new(network: &LoraNetwork, device: &Device) -> Self {
        let places = network.targets.iter().enumerate().map(|(index, target)| (target.name.clone(), 2 * index)).collect();
        // In one piece: a card is slow to begin each of hundreds of copies.
        let all: Vec<f32> = network.factors.iter().flat_map(|factor| &factor.values).copied().collect();
        let count = all.len();
        let all: Tensor<1> = Tensor::from_data(TensorData::new(all, [count]), (device, DType::F32));
        let mut first = 0;
        let tensor = |factor: &Factor| {
            let part = all.clone().narrow(0, first, factor.values.len()).reshape([factor.shape[0], factor.shape[1]]);
            first += factor.values.len();
            if part.is_autodiff() { part.require_grad() } else { part }
        };
        Self { factors: network.factors.iter().map(tensor).collect(), places, scale: network.scale() }
    }

    /// The same factors without gradients, on the device below autodiff.
    pub fn untracked(&self) -> Self {
        let factors = self.factors.iter().map(|factor| factor.clone().inner()).collect();
        Self { factors, places: self.places.clone(), scale: self.scale }
    }

    /// `down` and `up` of each module, `[rank, inputs]` and `[outputs, rank]`.
    pub fn factors(&self) -> &[Tensor<2>] {
        &self.factors
    }

    /// Puts the factors beside the UNet's layers; layers that the network does not adapt stay plain.
    pub fn beside_unet(&self, unet: &mut Unet) {
        unet.adapted(&mut |layer| layer.set_adapter(self.adapter(UNET_PREFIX, layer)));
    }

    /// Puts the factors beside the text encoder's layers; layers that the network does not adapt stay plain.
    pub fn beside_text_encoder(&self, text_encoder: &mut ClipTextModel) {
        text_encoder.adapted(&mut |layer| layer.set_adapter(self.adapter(TEXT_PREFIX, layer)));
    }

    fn adapter(&self, prefix: &str, layer: &AdaptedLinear) -> Option<Adapter> {
        let place = *self.places.get(&name(prefix, layer))?;
        Some(Adapter { down: self.factors[place].clone(), up: self.factors[place + 1].clone(), scale: self.scale })
    }
}

/// Takes all adapters away.
pub fn detach(unet: &mut Unet, text_encoder: Option<&mut ClipTextModel>) {
    unet.adapted(&mut |layer| layer.set_adapter(None));
    if let Some(text_encoder) = text_encoder {
        text_encoder.adapted(&mut |layer| layer.set_adapter(None));
    }
}

fn target(prefix: &str, layer: &AdaptedLinear) -> Target {
    Target {
        name: name(prefix, layer),
        inputs: layer.inputs(),
        outputs: layer.outputs(),
        convolution: layer.projection() == Projection::Convolution,
    }
}

/// kohya's name of a layer.
pub fn name(prefix: &str, layer: &AdaptedLinear) -> String {
    format!("{prefix}{}", layer.path().replace('.', "_"))
}
