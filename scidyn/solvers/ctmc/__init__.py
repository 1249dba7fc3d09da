"""Continuous-time Markov chains: rate matrices, reaction networks, simulation, path divergence."""
