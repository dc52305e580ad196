"Train 20 steps in float64 in as many processes as were started, and save the weights: see test_training.py"
import sys
import torch
from fastai.callback.core import Callback
from rsguided.cache import pair_dls
from rsguided.data import PairStore, train_val
from rsguided.ddim_train import diffusion_learner, fit_all
from rsguided.machine import Ranks, process_group
from rsguided.unet import Conditioning, create_unet

class Little(Callback):
    "The second process has room for one image"
    order, run_valid = 1, False
    def before_batch(self):
        if self.step_cb.ranks.rank == 1 and len(self.xb[0]) > 1: raise torch.OutOfMemoryError('CUDA out of memory')

def work(pairs, out, little='', batch=4):
    with process_group('cpu') as device:
        r, store = Ranks(), PairStore(pairs)
        torch.manual_seed(0)
        model = create_unet('tiny', Conditioning(store.classes, ablate=.1, null=.1), size=16).double()
        dls = pair_dls(*train_val(store), size=16, bs=batch//r.world, every=10, rank=r.rank, world=r.world)
        seen, at = [], dls.train.dataset
        learn = diffusion_learner(dls, model, steps=20, warmup=5, lr=1e-3, cbs=[Little()] if little else [])
        batches = learn.step_cb.positions
        def positions(n):
            seen.extend(at.stream(batches(n))[0].tolist())
            return batches(n)
        learn.step_cb.positions = positions
        fit_all(learn)
        torch.save(dict(weights=[p.detach() for p in model.parameters()], seen=seen, world=r.world), f'{out}.{r.rank}.pt')

if __name__ == '__main__': work(*sys.argv[1:])
