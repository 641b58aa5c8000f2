"""HTTP over one loaded model, in OpenAI's forms. One thread owns the model; handlers send it values."""
