//! The params of a training. Unaware of what is done with them.

use crate::engine::kind::reference::Reference;
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::Node;
use crate::sd::prompt::chunks::CHUNK;
use crate::stages::train::networks::Precision;
use crate::{choice, params};

choice! {
    /// How the learning rate goes on after the warm-up.
    pub enum ScheduleParam {
        /// Stays.
        Constant = "constant",
        /// Straight down to zero.
        Linear = "linear",
        /// Half a wave down to zero.
        Cosine = "cosine",
        /// Down to `end` by `power`.
        Polynomial = "polynomial"
    }
}

choice! {
    /// Which program's rules to repeat.
    pub enum Compat {
        /// A token that the caption has already is written again.
        Dreambooth = "dreambooth"
    }
}

params! {
    /// The size of the LoRA.
    pub struct NetworkParams {
        /// Inner dimension of the two factors: 4 to 16 for one concept; more learns finer detail and forgets the base sooner.
        result rank: u64 = 8,
        /// What the LoRA adds is multiplied by `alpha / rank`. The default is the rank.
        result alpha: Option<f64> = None,
    }
}

params! {
    /// How fast the networks learn.
    pub struct LearningRateParams {
        /// Peak rate of the UNet; 0 freezes it.
        result unet: f64 = 1e-4,
        /// Peak rate of the text encoder; 0 freezes it, and texts are then encoded once.
        result text_encoder: f64 = 5e-5,
        /// The course of both rates over the images seen.
        result schedule: ScheduleParam = ScheduleParam::Polynomial,
        /// Of the polynomial: 1 is a straight line, 2 falls faster at first.
        result power: f64 = 1.0,
        /// Where the polynomial ends.
        result end: f64 = 1e-7,
        /// Images over which the rate rises from zero to its peak.
        result warmup: u64 = 0,
    }
}

params! {
    /// Teaches a concept: a LoRA for the UNet and the text encoder, DreamBooth's way.
    ///
    /// Adapts kohya's modules (attention, feed-forward, projections; 264 on SD 1.x) with AdamW (betas 0.9 and 0.999, epsilon 1e-8, weight
    /// decay 0.01). Publishes a LoRA with kohya's names every `save_every` epochs and at the end; `train@20` is the one after 20 epochs,
    /// `train@step:1880` the one after 1880 images. Steps count images seen, whatever the batch size. Random numbers are drawn on the
    /// CPU from the seed, so that a training that was killed goes on to the same bytes.
    pub struct TrainParams {
        /// The model to teach, an SD 1.x model in one file.
        input base: Reference,
        /// A VAE that encodes the pictures in place of the model's own.
        input vae: Option<Reference> = None,
        /// The pictures, with or without captions; of Stable Diffusion's own models with sides in multiples of 64. Those of one size are learnt
        /// together.
        input images: Reference,
        /// The text of each image, with its caption in the place of `[filewords]`.
        result instance_prompt: String = "[filewords]".to_string(),
        /// Calls the concept; put in front of every text that lacks it. The default is the pipeline's trigger, and `""` none.
        result instance_token: Option<String> = None,
        /// What the concept is one of: `man`. The instance token then goes in front of this word.
        result class_token: Option<String> = None,
        /// `dreambooth` repeats the rules of sd_dreambooth_extension, which wrote a token again where the caption had it.
        result compat: Option<Compat> = None,
        /// Times that each image is seen.
        result epochs: u64 = 100,
        /// Ends after this epoch, with the learning rate as if going on to `epochs`.
        result stop_at: Option<u64> = None,
        /// Epochs between two checkpoints.
        result save_every: u64 = 10,
        /// Images per forward pass. Takes memory.
        result batch_size: u64 = 1,
        /// Batches per optimiser step. Takes time in place of memory.
        result gradient_accumulation: u64 = 1,
        /// Limit of the norm of all gradients together; 0 for none.
        result max_grad_norm: f64 = 1.0,
        result network: NetworkParams = NetworkParams { rank: 8, alpha: None },
        result learning_rate: LearningRateParams = LearningRateParams {
            unet: 1e-4,
            text_encoder: 5e-5,
            schedule: ScheduleParam::Polynomial,
            power: 1.0,
            end: 1e-7,
            warmup: 0,
        },
        /// Type of the base's weights and of the LoRA file, and of the arithmetic on a card; processors compute in fp32.
        result precision: Precision = Precision::Fp16,
        /// Which layer of the text encoder is used, from the end: 1 is the last, 2 what many anime models want.
        result clip_skip: u64 = 1,
        /// Compute the UNet's activations a second time in place of keeping them: less memory, more time.
        execution checkpointing: bool = false,
        /// Tokens of a text that are read: 75, 150 or 225. The rest is cut, and said.
        result max_token_length: u64 = 75,
        /// Of the LoRA's first factors, of order, noise and timesteps. The default is the pipeline's.
        result seed: Option<u64> = None,
    }
}

/// What the types cannot say; `None` if anything is wrong.
pub(super) fn check(params: &TrainParams, node: &Node, diagnostics: &mut Diagnostics) -> Option<()> {
    let rates = &params.learning_rate;
    let polynomial = rates.schedule == ScheduleParam::Polynomial;
    let above_end = |rate: f64| rate == 0.0 || !polynomial || rate > rates.end;
    let rules: [(&[&str], bool, String); 16] = [
        (&["network", "rank"], params.network.rank >= 1, "`rank` must be at least 1".into()),
        (&["network", "alpha"], params.network.alpha.is_none_or(|alpha| alpha > 0.0), "`alpha` must be above 0".into()),
        (&["epochs"], params.epochs >= 1, "`epochs` must be at least 1".into()),
        (
            &["stop_at"],
            params.stop_at.is_none_or(|stop| (1..=params.epochs).contains(&stop)),
            format!("`stop_at` must be one of the {} epochs", params.epochs),
        ),
        (&["save_every"], params.save_every >= 1, "`save_every` must be at least 1".into()),
        (&["batch_size"], params.batch_size >= 1, "`batch_size` must be at least 1".into()),
        (&["gradient_accumulation"], params.gradient_accumulation >= 1, "`gradient_accumulation` must be at least 1".into()),
        (&["max_grad_norm"], params.max_grad_norm >= 0.0, "`max_grad_norm` must be at least 0".into()),
        (&["learning_rate", "unet"], rates.unet >= 0.0, "`unet` must be at least 0".into()),
        (&["learning_rate", "text_encoder"], rates.text_encoder >= 0.0, "`text_encoder` must be at least 0".into()),
        (
            &["learning_rate"],
            rates.unet != 0.0 || rates.text_encoder != 0.0,
            "`unet` and `text_encoder` are both 0: nothing would learn".into(),
        ),
        (&["learning_rate", "power"], rates.power > 0.0, "`power` must be above 0".into()),
        (&["learning_rate", "end"], rates.end >= 0.0, "`end` must be at least 0".into()),
        (
            &["learning_rate"],
            above_end(rates.unet) && above_end(rates.text_encoder),
            format!("a rate is not above its `end` of {:e}", rates.end),
        ),
        (&["clip_skip"], params.clip_skip >= 1, "`clip_skip` must be at least 1, the last layer".into()),
        (
            &["max_token_length"],
            [1, 2, 3].contains(&(params.max_token_length / CHUNK as u64)) && params.max_token_length.is_multiple_of(CHUNK as u64),
            "`max_token_length` must be 75, 150 or 225".into(),
        ),
    ];
    let mut sound = Some(());
    for (path, holds, message) in rules {
        if !holds {
            let place = path.iter().try_fold(node, |node, key| node.get(key)).unwrap_or(node);
            diagnostics.report(&place.span, message);
            sound = None;
        }
    }
    sound
}
