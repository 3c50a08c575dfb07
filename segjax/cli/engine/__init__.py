"""Commands of the data engine: `segjax engine generate`, `retrain`, `prefill` and `report`."""
