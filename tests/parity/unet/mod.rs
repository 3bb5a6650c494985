//! The UNet against diffusers: tiny-sd's whole, and the blocks of a small one with SD 1.5's structure and random weights.

use burn::tensor::Tensor;

use loramill::sd::models::layers::Projection;
use loramill::sd::models::resnet::ResnetBlock;
use loramill::sd::models::transformer::{Heads, Transformer, TransformerConfig};
use loramill::sd::models::unet::{DownBlock, MidBlock, Unet, UnetConfig, UpBlock};
use loramill::sd::models::weights::Source;
use loramill::sd::ops::activation::activate;
use loramill::sd::ops::arguments::{Activation, Groups};
use loramill::sd::stable_diffusion::load_unet;

use crate::parity::Fixture;
use crate::parity::device;
use crate::parity::drawn::{Drawn, assert_agrees, drawn, tiny_sd};

/// A block is a dozen operations in f32, each rounding to 6e-8 sums of up to 2,000 products.
const BLOCK_TOLERANCE: f32 = 5e-6;
/// The whole network is some hundred.
const TOLERANCE: f32 = 1e-5;

fn check_whole(name: &str, unet: &Unet, timesteps: &[f32], tokens: usize) {
    let fixture = Fixture::read("unet");
    let shape: [usize; 4] = fixture.tensor(&format!("{name}.prediction")).0.try_into().unwrap();
    let width = unet.config().transformer.context_width;
    let latents = drawn(&format!("unet.{name}.latents"), shape);
    let context: Tensor<3> = drawn(&format!("unet.{name}.context"), [shape[0], tokens, width]);

    let prediction = unet.forward(latents.clone(), timesteps, &context);
    assert_agrees(&fixture, &format!("{name}.prediction"), prediction.clone(), TOLERANCE);

    // With autodiff the same numbers, and the gradient of the context, whose way leads through all of the network.
    let context = Tensor::from_inner(context).require_grad();
    let tracked = unet.forward(latents, timesteps, &context);
    assert!(tracked.clone().inner().into_data() == prediction.into_data(), "{name}: autodiff changes the prediction");
    let upstream: Tensor<4> = drawn(&format!("unet.{name}.gradient"), shape);
    let gradients = (tracked * Tensor::from_inner(upstream)).sum().backward();
    let found = context.grad(&gradients).unwrap();
    assert_agrees(&fixture, &format!("{name}.gradient.context"), found, TOLERANCE);
}

fn sd1() -> UnetConfig {
    UnetConfig {
        in_channels: 4,
        out_channels: 4,
        channels: vec![32, 64, 96, 96],
        attention: vec![true, true, true, false],
        resnets: 2,
        groups: 32,
        transformer: TransformerConfig { heads: Heads::Count(8), context_width: 48, projection: Projection::Convolution },
    }
}

fn init(config: &UnetConfig) -> Unet {
    Unet::init(config, Source::new(&mut Drawn("unet"), &device())).unwrap()
}

on_each_device! {
fn the_unet_of_tiny_sd_agrees_with_diffusers() {
    check_whole("tiny", &load_unet(&tiny_sd(), &device()).unwrap(), &[999.0, 473.2105, 0.0], 77);
}
}

on_each_device! {
fn a_small_unet_like_sd_1_agrees_with_diffusers() {
    check_whole("sd1", &init(&sd1()), &[731.0], 77);
}
}

on_each_device! {
fn a_small_unet_like_sd_2_agrees_with_diffusers() {
    let config = UnetConfig {
        channels: vec![64, 128],
        attention: vec![true, false],
        transformer: TransformerConfig { heads: Heads::Width(64), context_width: 48, projection: Projection::Linear },
        ..sd1()
    };
    check_whole("sd2", &init(&config), &[12.0, 900.0], 154);
}
}

/// A drawn picture of a block's test, two of them.
fn picture(name: &str, channels: usize, height: usize, width: usize) -> Tensor<4> {
    drawn(&format!("unet.block.{name}"), [2, height, width, channels])
}

/// The time embedding as blocks get it.
fn time() -> Tensor<2> {
    activate(drawn("unet.block.time", [2, 128]), Activation::Silu)
}

fn context() -> Tensor<3> {
    drawn("unet.block.context", [2, 77, 48])
}

fn check_block(name: &str, found: Tensor<4>) {
    assert_agrees(&Fixture::read("unet"), &format!("block.{name}"), found, BLOCK_TOLERANCE);
}

on_each_device! {
fn a_residual_block_agrees_with_diffusers() {
    let (mut weights, device) = (Drawn("unet"), device());
    let mut source = Source::new(&mut weights, &device);
    let groups = Groups { count: 32, epsilon: 1e-5 };
    let block = ResnetBlock::init(source.at("down_blocks.1.resnets.0"), 32, 64, Some(128), groups).unwrap();
    check_block("resnet", block.forward(picture("resnet", 32, 5, 7), Some(&time())));
    let block = ResnetBlock::init(source.at("down_blocks.1.resnets.1"), 64, 64, Some(128), groups).unwrap();
    check_block("resnet_same", block.forward(picture("resnet_same", 64, 5, 7), Some(&time())));
}
}

on_each_device! {
fn a_transformer_agrees_with_diffusers() {
    let (mut weights, device) = (Drawn("unet"), device());
    let mut source = Source::new(&mut weights, &device);
    let block = Transformer::init(source.at("down_blocks.1.attentions.0"), 64, 32, &sd1().transformer).unwrap();
    check_block("transformer", block.forward(picture("transformer", 64, 5, 7), &context()));
}
}

on_each_device! {
fn blocks_on_the_way_down_agree_with_diffusers() {
    let (mut weights, device) = (Drawn("unet"), device());
    let mut source = Source::new(&mut weights, &device);
    let block = DownBlock::init(&sd1(), source.at("down_blocks.1"), 1, 32).unwrap();
    let mut skips = Vec::new();
    block.forward(picture("down", 32, 8, 6), &time(), &context(), &mut skips);
    assert_eq!(skips.len(), 3);
    for (i, skip) in skips.into_iter().enumerate() {
        check_block(&format!("down.{i}"), skip);
    }
    let block = DownBlock::init(&sd1(), source.at("down_blocks.3"), 3, 96).unwrap();
    check_block("down_last", block.forward(picture("down_last", 96, 3, 2), &time(), &context(), &mut Vec::new()));
}
}

on_each_device! {
fn the_middle_agrees_with_diffusers() {
    let (mut weights, device) = (Drawn("unet"), device());
    let block = MidBlock::init(&sd1(), Source::new(&mut weights, &device).at("mid_block"), 96).unwrap();
    check_block("middle", block.forward(picture("middle", 96, 3, 2), &time(), &context()));
}
}

on_each_device! {
fn blocks_on_the_way_up_agree_with_diffusers() {
    let (mut weights, device) = (Drawn("unet"), device());
    let mut source = Source::new(&mut weights, &device);
    let channels = vec![32, 64, 64];
    let block = UpBlock::init(&sd1(), source.at("up_blocks.2"), 1, 96, channels.clone()).unwrap();
    let mut skips: Vec<_> = channels.iter().enumerate().map(|(i, c)| picture(&format!("up.{i}"), *c, 4, 6)).collect();
    check_block("up", block.forward(picture("up", 96, 4, 6), &time(), &context(), &mut skips));
    assert!(skips.is_empty());
    let block = UpBlock::init(&sd1(), source.at("up_blocks.0"), 3, 96, vec![96, 96, 96]).unwrap();
    let mut skips: Vec<_> = (0..3).map(|i| picture(&format!("up_first.{i}"), 96, 2, 3)).collect();
    check_block("up_first", block.forward(picture("up_first", 96, 2, 3), &time(), &context(), &mut skips));
}
}

on_each_device! {
fn a_lora_adapts_the_modules_that_kohya_adapts() {
    let mut paths = Vec::new();
    let sd15 = UnetConfig { channels: vec![32, 32, 32, 32], ..sd1() };
    init_paths(&sd15, &mut paths);
    assert_eq!(paths.len(), 192);
    assert_eq!(paths.iter().filter(|path| path.ends_with("proj_in") || path.ends_with("proj_out")).count(), 32);
    assert!(paths.contains(&"mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj".to_owned()));
    assert!(paths.contains(&"up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0".to_owned()));
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 192);
}
}

fn init_paths(config: &UnetConfig, paths: &mut Vec<String>) {
    init(config).adapted(&mut |layer| paths.push(layer.path().to_owned()));
}
