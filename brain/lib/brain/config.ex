defmodule Brain.Config do
  @moduledoc "The part of the manifest that Brain needs, as the link tells it in its hello."

  @numbers [
    :incarnation,
    :shards,
    :tick_ms,
    :count_tick_ms,
    :full_limit,
    :state_max_bytes,
    :sessions_listed,
    :down_after_ms,
    :forget_after_ms,
    :digest_ms,
    :repairs
  ]

  @type t :: %{
          id: binary,
          incarnation: non_neg_integer,
          version: binary,
          listen: binary,
          shards: pos_integer,
          tick_ms: pos_integer,
          count_tick_ms: pos_integer,
          full_limit: pos_integer,
          state_max_bytes: pos_integer,
          sessions_listed: pos_integer,
          down_after_ms: pos_integer,
          forget_after_ms: pos_integer,
          digest_ms: pos_integer,
          repairs: pos_integer,
          traces: boolean,
          log_level: atom | binary,
          log_format: :json | :pretty
        }

  @doc "Checks a hello. No shards given: one for each scheduler."
  @spec new(term) :: {:ok, t} | {:error, String.t()}
  def new(%{id: id, listen: listen, traces: traces?, log_format: format} = config)
      when is_binary(id) and is_binary(listen) and is_boolean(traces?) and
             format in [:json, :pretty] do
    case Enum.reject(@numbers, &(is_integer(config[&1]) and config[&1] >= 0)) do
      [] -> {:ok, %{config | shards: shards(config.shards)}}
      missing -> {:error, "the hello lacks #{Enum.join(missing, ", ")}"}
    end
  end

  def new(_), do: {:error, "the hello is no configuration"}

  # Shards have registered names: their number is bounded, whatever the manifest says.
  defp shards(0), do: System.schedulers_online()
  defp shards(n), do: min(n, 256)

  @doc "The log level by its name, `:info` if there is none such."
  @spec log_level(t) :: Logger.level()
  def log_level(config) do
    case to_string(config[:log_level]) do
      level when level in ["trace", "debug"] -> :debug
      level when level in ["warn", "warning"] -> :warning
      "error" -> :error
      _ -> :info
    end
  end
end
