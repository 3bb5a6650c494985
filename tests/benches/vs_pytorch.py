"""loramill beside diffusers and peft: the same networks, the same shapes, the same libtorch, one after the other, again and again.

    python3 -m venv target/rival && target/rival/bin/pip install torch==2.9.1 diffusers==0.42.1 peft==0.21.* transformers==5.23.*
    LIBTORCH=... cargo build --release --features libtorch
    target/rival/bin/python tests/benches/vs_pytorch.py [--pairs 7] [--only training-512 ...] [--threads 2]
    target/rival/bin/python tests/benches/vs_pytorch.py --device libtorch:0 --precision fp16       # on a card, with a torch for it

Each measurement is a process of its own that does one thing: its peak of memory (VmHWM) is that thing's. On a card it is how much more of the
card's memory was in use than before, looked at ten times a second: use a card that nothing else works on. Weights are random, LoRA rank 8 on
q, k, v and out, batch 1, AdamW; in fp16 and bf16 peft's factors stay f32 under autocast, as in diffusers' own scripts. A pair is one measurement
of either; printed are medians, their ratio, and the least and the greatest ratio of a pair.
"""
import argparse
import contextlib
import glob
import json
import os
import statistics
import subprocess
import sys
import threading
import time

ROWS = {
    'training-256': dict(what='training', size=256),
    'training-512': dict(what='training', size=512),
    'checkpointed-512': dict(what='training', size=512, checkpointing=True),
    'prediction-512': dict(what='prediction', size=512),
    'picture-512': dict(what='picture', size=512, steps=20),
}
GOALS = {  # time, memory
    'training-256': (0.80, 0.85),
    'training-512': (0.80, 0.80),
    'checkpointed-512': (0.85, 0.75),
    'prediction-512': (0.95, None),
    'picture-512': (0.90, None),
}
ON_CARD = (0.90, None)


def peak():
    with open('/proc/self/status') as status:
        return 1024 * int(next(line for line in status if line.startswith('VmHWM')).split()[1])


def card_memory():
    """Bytes in use on all cards."""
    amd = glob.glob('/sys/class/drm/card*/device/mem_info_vram_used')
    if amd: return sum(int(open(path).read()) for path in amd)
    asked = subprocess.run(['nvidia-smi', '--query-gpu=memory.used', '--format=csv,noheader,nounits'], check=True, capture_output=True, text=True)
    return sum(int(line) for line in asked.stdout.split()) << 20


class CardPeak:
    """How much more of the cards' memory is in use than at first, at most, while it is open."""
    def __enter__(self):
        self.first = self.most = card_memory()
        self.over = threading.Event()
        def look():
            while not self.over.wait(0.1): self.most = max(self.most, card_memory())
        self.looking = threading.Thread(target=look)
        self.looking.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.looking.join()
        self.peak = self.most - self.first


def pytorch(row):
    """One measurement of diffusers and peft, in this process."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from peft import LoraConfig

    torch.set_num_threads(row['threads'])
    torch.manual_seed(0)
    cross = ('CrossAttnDownBlock2D',) * 3 + ('DownBlock2D',)
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=(320, 640, 1280, 1280),
        cross_attention_dim=768, attention_head_dim=8, norm_num_groups=32, down_block_types=cross,
        up_block_types=('UpBlock2D',) + ('CrossAttnUpBlock2D',) * 3)
    unet.requires_grad_(False)
    device = 'cuda' if row['card'] else 'cpu'
    dtype = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}[row['precision']]
    half = dtype != torch.float32
    unet.to(device, dtype)
    side = row['size'] // 8
    latent, context = torch.randn(1, 4, side, side).to(device, dtype), torch.randn(1, 77, 768).to(device, dtype)
    timestep = torch.tensor([500], device=device)
    wait = torch.cuda.synchronize if row['card'] else lambda: None
    seconds = []

    def timed(work, count):
        work()
        wait()
        for _ in range(count):
            started = time.perf_counter()
            work()
            wait()
            seconds.append(time.perf_counter() - started)

    if row['what'] == 'training':
        unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=['to_k', 'to_q', 'to_v', 'to_out.0'], init_lora_weights='gaussian'))
        if row.get('checkpointing'):
            unet.enable_gradient_checkpointing()
        unet.train()
        factors = [p for p in unet.parameters() if p.requires_grad]
        for factor in factors: factor.data = factor.data.float()
        optimizer = torch.optim.AdamW(factors, lr=1e-4)
        scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
        noise = torch.randn_like(latent).float()

        def step():
            with torch.autocast(device, dtype) if half else contextlib.nullcontext():
                predicted = unet(latent, timestep, context).sample
            scaler.scale(torch.nn.functional.mse_loss(predicted.float(), noise)).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(factors, 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

        timed(step, row['steps'])
    elif row['what'] == 'prediction':
        with torch.no_grad():
            timed(lambda: unet(latent, timestep, context).sample, row['steps'])
    else:
        from transformers import CLIPTextConfig, CLIPTextModel
        text = CLIPTextModel(CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                                            num_attention_heads=12, max_position_embeddings=77)).to(device, dtype)
        vae = AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, layers_per_block=2, block_out_channels=(128, 256, 512, 512),
            down_block_types=('DownEncoderBlock2D',) * 4, up_block_types=('UpDecoderBlock2D',) * 4, norm_num_groups=32).to(device)
        scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear')

        def picture(steps):
            tokens = torch.randint(0, 49408, (2, 77), device=device)
            with torch.no_grad():
                both = text(tokens)[0]
                scheduler.set_timesteps(steps, device=device)
                x = latent * scheduler.init_noise_sigma
                for t in scheduler.timesteps:
                    scaled = scheduler.scale_model_input(torch.cat([x, x]), t)
                    without, with_prompt = unet(scaled, t, both).sample.chunk(2)
                    x = scheduler.step(without + 7.5 * (with_prompt - without), t, x).prev_sample
                return vae.decode(x.float() / 0.18215).sample.cpu()

        picture(1)
        started = time.perf_counter()
        picture(row['steps'])
        seconds.append(time.perf_counter() - started)
    return {'seconds': statistics.median(seconds), 'peak': peak()}


def loramill(row, program, device):
    """One measurement of loramill."""
    command = [program, 'bench', 'sd15', '--json', '--device', device, '--what', row['what'], '--size', str(row['size']),
               '--steps', str(row['steps']), '--modules', 'attention', '--precision', row['precision']]
    if row.get('checkpointing'):
        command.append('--checkpointing')
    env = dict(os.environ, OMP_NUM_THREADS=str(row['threads']), RAYON_NUM_THREADS=str(row['threads']))
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)
    return {'seconds': result['seconds_per_step'], 'peak': result['peak_bytes']}


def measured(measure, row):
    if not row['card']: return measure(row)
    with CardPeak() as card: result = measure(row)
    return {**result, 'peak': card.peak}


def other_process(row):
    command = [sys.executable, __file__, '--measure', json.dumps(row)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--pairs', type=int, default=7)
    parser.add_argument('--steps', type=int, default=1, help='steps of each measurement after one to warm up')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--only', nargs='*', choices=ROWS, default=list(ROWS))
    parser.add_argument('--program', default='target/release/loramill')
    parser.add_argument('--device', default='libtorch:cpu')
    parser.add_argument('--precision', choices=('fp32', 'fp16', 'bf16'), default='fp32')
    parser.add_argument('--measure', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(pytorch(json.loads(arguments.measure))))
        return
    card = not arguments.device.endswith('cpu')
    print(f'{"":18} {"diffusers + peft":>20} {"loramill":>20} {"time (spread)":>24} {"goal":>5} {"memory":>7} {"goal":>5}')
    for name in arguments.only:
        row = {'steps': arguments.steps, 'threads': arguments.threads, 'card': card, 'precision': arguments.precision, **ROWS[name]}
        theirs, ours = [], []
        for pair in range(arguments.pairs):
            theirs.append(measured(other_process, row))
            ours.append(measured(lambda row: loramill(row, arguments.program, arguments.device), row))
            print(f'{name}, pair {pair + 1} of {arguments.pairs}: {theirs[-1]["seconds"]:.2f} s, {ours[-1]["seconds"]:.2f} s', file=sys.stderr, flush=True)
        of = lambda runs, what: statistics.median(run[what] for run in runs)
        ratios = [mine['seconds'] / their['seconds'] for mine, their in zip(ours, theirs)]
        memory = of(ours, 'peak') / of(theirs, 'peak')
        time_goal, memory_goal = ON_CARD if card else GOALS[name]
        shown = lambda runs: f'{of(runs, "seconds"):.2f} s, {of(runs, "peak") / 1e9:.2f} GB'
        print(f'{name:18} {shown(theirs):>20} {shown(ours):>20} '
              f'{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})   {time_goal:5.2f} {memory:7.2f} '
              f'{memory_goal if memory_goal else "":>5}', flush=True)


if __name__ == '__main__':
    main()
