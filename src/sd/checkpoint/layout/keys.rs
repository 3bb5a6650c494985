//! The names of every tensor of a Stable Diffusion 1.x model, as LDM's single files and as diffusers call them, with their shapes. Follows
//! from a few sizes (`layout`); unaware of files.
//!
//! | LDM | diffusers |
//! | --- | --- |
//! | `input_blocks.{n}.0` (n counts blocks and downsamplers from 1) | `down_blocks.{level}.resnets.{block}` |
//! | `input_blocks.{n}.1` | `down_blocks.{level}.attentions.{block}` |
//! | `input_blocks.{n}.0.op` | `down_blocks.{level}.downsamplers.0.conv` |
//! | `middle_block.0`, `.1`, `.2` | `mid_block.resnets.0`, `.attentions.0`, `.resnets.1` |
//! | `output_blocks.{n}.0`, `.1` | `up_blocks.{level}.resnets.{block}`, `.attentions.{block}` |
//! | `output_blocks.{n}.1.conv` (`.2.conv` behind an attention) | `up_blocks.{level}.upsamplers.0.conv` |
//! | `encoder.down.{level}.block.{block}` | `encoder.down_blocks.{level}.resnets.{block}` |
//! | `decoder.up.{level}.block.{block}`, counted from the finest | `decoder.up_blocks.{level}`, counted from the coarsest |
//! | `mid.attn_1.{norm,q,k,v,proj_out}`, 1×1 convolutions | `mid_block.attentions.0.{group_norm,to_q,to_k,to_v,to_out.0}`, linear |
//!
//! Source: diffusers' `single_file_utils.py` and `convert_diffusers_to_original_stable_diffusion.py`.

use crate::sd::checkpoint::key::{Key, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX};
use crate::sd::checkpoint::layout::{TextLayout, UnetLayout, VaeLayout};

/// Collects keys below a pair of prefixes.
struct Keys {
    prefix: &'static str,
    found: Vec<Key>,
}

impl Keys {
    fn new(prefix: &'static str) -> Self {
        Self { prefix, found: Vec::new() }
    }

    fn push(&mut self, ldm: &str, diffusers: &str, shape: &[usize], ldm_shape: &[usize]) {
        self.found.push(Key {
            ldm: format!("{}{ldm}", self.prefix),
            diffusers: diffusers.to_string(),
            shape: shape.to_vec(),
            ldm_shape: ldm_shape.to_vec(),
        });
    }

    fn weight(&mut self, ldm: &str, diffusers: &str, shape: &[usize]) {
        self.push(&format!("{ldm}.weight"), &format!("{diffusers}.weight"), shape, shape);
    }

    fn bias(&mut self, ldm: &str, diffusers: &str, width: usize) {
        self.push(&format!("{ldm}.bias"), &format!("{diffusers}.bias"), &[width], &[width]);
    }

    /// A linear layer, convolution or norm with its bias; the bias is as wide as the first side.
    fn layer(&mut self, ldm: &str, diffusers: &str, shape: &[usize]) {
        self.weight(ldm, diffusers, shape);
        self.bias(ldm, diffusers, shape[0]);
    }

    fn unet_res_block(&mut self, ldm: &str, diffusers: &str, from: usize, to: usize, time: usize) {
        let names = |a: &str, b: &str| (format!("{ldm}.{a}"), format!("{diffusers}.{b}"));
        let mut layer = |(a, b): (String, String), shape: &[usize]| self.layer(&a, &b, shape);
        layer(names("in_layers.0", "norm1"), &[from]);
        layer(names("in_layers.2", "conv1"), &[to, from, 3, 3]);
        layer(names("emb_layers.1", "time_emb_proj"), &[to, time]);
        layer(names("out_layers.0", "norm2"), &[to]);
        layer(names("out_layers.3", "conv2"), &[to, to, 3, 3]);
        if from != to {
            layer(names("skip_connection", "conv_shortcut"), &[to, from, 1, 1]);
        }
    }

    /// The names below a spatial transformer are the same on both sides.
    fn transformer(&mut self, ldm: &str, diffusers: &str, width: usize, context: usize, linear: bool) {
        let names = |name: &str| (format!("{ldm}.{name}"), format!("{diffusers}.{name}"));
        let projection: &[usize] = if linear { &[width, width] } else { &[width, width, 1, 1] };
        let mut layer = |name: &str, shape: &[usize], bias: bool| {
            let (a, b) = names(name);
            self.weight(&a, &b, shape);
            if bias {
                self.bias(&a, &b, shape[0]);
            }
        };
        layer("norm", &[width], true);
        layer("proj_in", projection, true);
        for (attention, norm, source) in [("attn1", "norm1", width), ("attn2", "norm2", context)] {
            layer(&format!("transformer_blocks.0.{norm}"), &[width], true);
            layer(&format!("transformer_blocks.0.{attention}.to_q"), &[width, width], false);
            layer(&format!("transformer_blocks.0.{attention}.to_k"), &[width, source], false);
            layer(&format!("transformer_blocks.0.{attention}.to_v"), &[width, source], false);
            layer(&format!("transformer_blocks.0.{attention}.to_out.0"), &[width, width], true);
        }
        layer("transformer_blocks.0.norm3", &[width], true);
        // GEGLU: one half of the hidden values gates the other.
        layer("transformer_blocks.0.ff.net.0.proj", &[8 * width, width], true);
        layer("transformer_blocks.0.ff.net.2", &[width, 4 * width], true);
        layer("proj_out", projection, true);
    }

    fn vae_res_block(&mut self, ldm: &str, diffusers: &str, from: usize, to: usize) {
        let mut layer = |a: &str, b: &str, shape: &[usize]| self.layer(&format!("{ldm}.{a}"), &format!("{diffusers}.{b}"), shape);
        layer("norm1", "norm1", &[from]);
        layer("conv1", "conv1", &[to, from, 3, 3]);
        layer("norm2", "norm2", &[to]);
        layer("conv2", "conv2", &[to, to, 3, 3]);
        if from != to {
            layer("nin_shortcut", "conv_shortcut", &[to, from, 1, 1]);
        }
    }

    fn vae_middle(&mut self, side: &str, width: usize) {
        self.vae_res_block(&format!("{side}.mid.block_1"), &format!("{side}.mid_block.resnets.0"), width, width);
        let (ldm, diffusers) = (format!("{side}.mid.attn_1"), format!("{side}.mid_block.attentions.0"));
        self.layer(&format!("{ldm}.norm"), &format!("{diffusers}.group_norm"), &[width]);
        for (a, b) in [("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")] {
            let (a, b) = (format!("{ldm}.{a}"), format!("{diffusers}.{b}"));
            self.push(&format!("{a}.weight"), &format!("{b}.weight"), &[width, width], &[width, width, 1, 1]);
            self.bias(&a, &b, width);
        }
        self.vae_res_block(&format!("{side}.mid.block_2"), &format!("{side}.mid_block.resnets.1"), width, width);
    }
}

impl UnetLayout {
    /// Every tensor, in the order in which diffusers registers modules: down, up, then middle.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = Keys::new(UNET_PREFIX);
        let (first, last, time) = (self.channels[0], self.channels[self.channels.len() - 1], self.time_width());
        let levels = self.channels.len();
        keys.layer("input_blocks.0.0", "conv_in", &[first, self.in_channels, 3, 3]);
        keys.layer("time_embed.0", "time_embedding.linear_1", &[time, first]);
        keys.layer("time_embed.2", "time_embedding.linear_2", &[time, time]);

        // 1. down; what each block leaves for its counterpart is remembered.
        let mut skips = vec![first];
        let (mut block, mut width) = (1, first);
        for level in 0..levels {
            for index in 0..self.res_blocks {
                let ldm = format!("input_blocks.{block}");
                let to = self.channels[level];
                keys.unet_res_block(&format!("{ldm}.0"), &format!("down_blocks.{level}.resnets.{index}"), width, to, time);
                if self.attention[level] {
                    let diffusers = format!("down_blocks.{level}.attentions.{index}");
                    keys.transformer(&format!("{ldm}.1"), &diffusers, to, self.context_width, self.linear_projections);
                }
                (width, block) = (to, block + 1);
                skips.push(width);
            }
            if level + 1 < levels {
                let diffusers = format!("down_blocks.{level}.downsamplers.0.conv");
                keys.layer(&format!("input_blocks.{block}.0.op"), &diffusers, &[width, width, 3, 3]);
                skips.push(width);
                block += 1;
            }
        }

        // 2. up
        let mut block = 0;
        for (step, level) in (0..levels).rev().enumerate() {
            for index in 0..=self.res_blocks {
                let ldm = format!("output_blocks.{block}");
                let from = width + skips.pop().expect("one was pushed for each block that takes one");
                width = self.channels[level];
                keys.unet_res_block(&format!("{ldm}.0"), &format!("up_blocks.{step}.resnets.{index}"), from, width, time);
                if self.attention[level] {
                    let diffusers = format!("up_blocks.{step}.attentions.{index}");
                    keys.transformer(&format!("{ldm}.1"), &diffusers, width, self.context_width, self.linear_projections);
                }
                if index == self.res_blocks && level > 0 {
                    let place = 1 + usize::from(self.attention[level]);
                    let diffusers = format!("up_blocks.{step}.upsamplers.0.conv");
                    keys.layer(&format!("{ldm}.{place}.conv"), &diffusers, &[width, width, 3, 3]);
                }
                block += 1;
            }
        }

        // 3. middle and end
        keys.unet_res_block("middle_block.0", "mid_block.resnets.0", last, last, time);
        keys.transformer("middle_block.1", "mid_block.attentions.0", last, self.context_width, self.linear_projections);
        keys.unet_res_block("middle_block.2", "mid_block.resnets.1", last, last, time);
        keys.layer("out.0", "conv_norm_out", &[first]);
        keys.layer("out.2", "conv_out", &[self.out_channels, first, 3, 3]);
        keys.found
    }
}

impl VaeLayout {
    /// Every tensor: encoder, decoder, then the two 1×1 convolutions around the latents.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = Keys::new(VAE_PREFIX);
        let levels = self.channels.len();
        let (first, last, latent) = (self.channels[0], self.channels[levels - 1], self.latent_channels);
        keys.layer("encoder.conv_in", "encoder.conv_in", &[first, self.image_channels, 3, 3]);
        let mut width = first;
        for (level, to) in self.channels.iter().copied().enumerate() {
            for index in 0..self.res_blocks {
                let names =
                    (format!("encoder.down.{level}.block.{index}"), format!("encoder.down_blocks.{level}.resnets.{index}"));
                keys.vae_res_block(&names.0, &names.1, width, to);
                width = to;
            }
            if level + 1 < levels {
                let diffusers = format!("encoder.down_blocks.{level}.downsamplers.0.conv");
                keys.layer(&format!("encoder.down.{level}.downsample.conv"), &diffusers, &[width, width, 3, 3]);
            }
        }
        keys.vae_middle("encoder", last);
        keys.layer("encoder.norm_out", "encoder.conv_norm_out", &[last]);
        keys.layer("encoder.conv_out", "encoder.conv_out", &[2 * latent, last, 3, 3]);

        keys.layer("decoder.conv_in", "decoder.conv_in", &[last, latent, 3, 3]);
        keys.vae_middle("decoder", last);
        let mut width = last;
        for (step, level) in (0..levels).rev().enumerate() {
            for index in 0..=self.res_blocks {
                let names = (format!("decoder.up.{level}.block.{index}"), format!("decoder.up_blocks.{step}.resnets.{index}"));
                keys.vae_res_block(&names.0, &names.1, width, self.channels[level]);
                width = self.channels[level];
            }
            if level > 0 {
                let diffusers = format!("decoder.up_blocks.{step}.upsamplers.0.conv");
                keys.layer(&format!("decoder.up.{level}.upsample.conv"), &diffusers, &[width, width, 3, 3]);
            }
        }
        keys.layer("decoder.norm_out", "decoder.conv_norm_out", &[first]);
        keys.layer("decoder.conv_out", "decoder.conv_out", &[self.image_channels, first, 3, 3]);
        keys.layer("quant_conv", "quant_conv", &[2 * latent, 2 * latent, 1, 1]);
        keys.layer("post_quant_conv", "post_quant_conv", &[latent, latent, 1, 1]);
        keys.found
    }
}

impl TextLayout {
    /// Every tensor; LDM keeps transformers' names.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = Keys::new(TEXT_PREFIX);
        let same = |keys: &mut Keys, name: &str, shape: &[usize]| keys.layer(name, name, shape);
        for (name, rows) in [("token_embedding", self.vocabulary), ("position_embedding", self.positions)] {
            let name = format!("text_model.embeddings.{name}");
            keys.weight(&name, &name, &[rows, self.width]);
        }
        for layer in 0..self.layers {
            let layer = format!("text_model.encoder.layers.{layer}");
            same(&mut keys, &format!("{layer}.layer_norm1"), &[self.width]);
            for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                same(&mut keys, &format!("{layer}.self_attn.{projection}"), &[self.width, self.width]);
            }
            same(&mut keys, &format!("{layer}.layer_norm2"), &[self.width]);
            same(&mut keys, &format!("{layer}.mlp.fc1"), &[self.mlp_width, self.width]);
            same(&mut keys, &format!("{layer}.mlp.fc2"), &[self.width, self.mlp_width]);
        }
        same(&mut keys, "text_model.final_layer_norm", &[self.width]);
        keys.found
    }
}
