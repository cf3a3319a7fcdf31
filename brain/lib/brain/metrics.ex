defmodule Brain.Metrics do
  @moduledoc """
  Counters and gauges of this Brain. The link knows their names as others see them and what they
  mean (`shield/telemetry/src/metrics/brain.rs`); a test holds that both know the same ones.

  Counters are one `:counters` array for the life of the VM, so that a crash of what counts loses
  nothing. Gauges are rows of a public table, one for each process that measures.
  """

  @counters [
    :changes,
    :duplicates,
    :gaps,
    :stale_epoch,
    :forged,
    {:syncs, :gap},
    {:syncs, :overflow},
    {:syncs, :lag},
    {:syncs, :digest},
    {:syncs, :ahead},
    {:syncs, :dirty},
    {:syncs, :malformed},
    {:syncs, :cold},
    :syncs_done,
    :digest_mismatches,
    :shield_conflicts,
    :tenants_dropped,
    :malformed,
    :oversized,
    :slow_consumer,
    :clock_skew,
    :dropped,
    :events,
    :answers,
    :parked,
    :link_restarts,
    :traces,
    :traces_dropped
  ]
  @index @counters |> Enum.with_index(1) |> Map.new()
  # Of the kinds that the link may name.
  @from_link [:slow_consumer, :malformed, :oversized, :clock_skew, :dropped]
  @gauges [:members, :rooms, :tenants, :shields, :share, :warm, :waiting, :mailbox_max]

  @type counter :: atom | {:syncs, Brain.Repairs.reason()}

  @doc "Makes counters and gauges, once for the life of the VM; the caller owns the gauges."
  @spec init() :: :ok
  def init do
    if :persistent_term.get(__MODULE__, nil) == nil do
      :persistent_term.put(__MODULE__, :counters.new(length(@counters), [:write_concurrency]))
    end

    if :ets.whereis(__MODULE__) == :undefined do
      :ets.new(__MODULE__, [:named_table, :public, :set, write_concurrency: true])
    end

    :ok
  end

  @spec add(counter, integer) :: :ok
  def add(name, n),
    do: :counters.add(:persistent_term.get(__MODULE__), Map.fetch!(@index, name), n)

  @doc "Adds what the link has counted; a kind it does not know counts as malformed."
  @spec add_from_link(term, term) :: :ok
  def add_from_link(kind, n) when kind in @from_link and is_integer(n) and n >= 0,
    do: add(kind, n)

  def add_from_link(_, _), do: add(:malformed, 1)

  @spec get(counter) :: integer
  def get(name), do: :counters.get(:persistent_term.get(__MODULE__), Map.fetch!(@index, name))

  @doc "What process `who` measures of `name` now."
  @spec gauge(atom, term, integer) :: true
  def gauge(name, who, value), do: :ets.insert(__MODULE__, {{name, who}, value})

  @doc "A gauge over all processes that measure it."
  @spec total(atom) :: integer
  def total(name) do
    values = :ets.select(__MODULE__, [{{{name, :_}, :"$1"}, [], [:"$1"]}])
    if name == :mailbox_max, do: Enum.max(values, fn -> 0 end), else: Enum.sum(values)
  end

  @doc "All of them as they are now, and what the BEAM counts and measures of itself."
  @spec numbers() :: [{binary, non_neg_integer}]
  def numbers do
    counters = for name <- @counters, do: {name(name), get(name)}
    gauges = for name <- @gauges, do: {Atom.to_string(name), max(total(name), 0)}
    counters ++ gauges ++ beam()
  end

  defp name({kind, reason}), do: "#{kind}_#{reason}"
  defp name(name), do: Atom.to_string(name)

  defp beam do
    {reductions, _} = :erlang.statistics(:reductions)
    {collections, words, _} = :erlang.statistics(:garbage_collection)
    {uptime_ms, _} = :erlang.statistics(:wall_clock)

    [
      {"beam_reductions", reductions},
      {"beam_garbage_collections", collections},
      {"beam_reclaimed_words", words},
      {"beam_memory_bytes", :erlang.memory(:total)},
      {"beam_processes", :erlang.system_info(:process_count)},
      {"beam_atoms", :erlang.system_info(:atom_count)},
      {"beam_run_queue", :erlang.statistics(:total_run_queue_lengths)},
      {"beam_uptime_seconds", div(uptime_ms, 1_000)}
    ]
  end
end
