defmodule Brain.Link.Credit do
  @moduledoc """
  Credit of both directions.

  Towards the link it is a number that every process may look at before it makes something: one
  that finds none keeps its changes. It may go below zero by what is never kept back (beats,
  orders) and by one round of each shard.

  From the link, a batch's cost goes back when all processes that got a part of it are done, so
  what waits in their mailboxes is bounded by the credit.
  """

  @initial 4 * 1024 * 1024

  @type t :: %{reference => {cost :: non_neg_integer, MapSet.t()}}

  ## Towards the link

  @spec init() :: :ok
  def init do
    if :persistent_term.get(__MODULE__, nil) == nil do
      :persistent_term.put(__MODULE__, :atomics.new(1, signed: true))
    end

    :ok
  end

  @spec initial() :: pos_integer
  def initial, do: @initial

  @spec left() :: integer
  def left, do: :atomics.get(counter(), 1)

  @spec take(non_neg_integer) :: :ok
  def take(n), do: :atomics.sub(counter(), 1, n)

  @spec give(non_neg_integer) :: :ok
  def give(n), do: :atomics.add(counter(), 1, n)

  @doc "A new link begins with all of it, no link has none."
  @spec reset(:full | :none) :: :ok
  def reset(:full), do: :atomics.put(counter(), 1, @initial)
  def reset(:none), do: :atomics.put(counter(), 1, 0)

  defp counter, do: :persistent_term.get(__MODULE__)

  ## From the link

  @doc "A batch was dealt out. Without parts its cost goes back at once."
  @spec dealt(t, reference, non_neg_integer, [term]) :: {t, non_neg_integer}
  def dealt(open, _, cost, []), do: {open, cost}
  def dealt(open, ref, cost, parts), do: {Map.put(open, ref, {cost, MapSet.new(parts)}), 0}

  @doc "A process is done with its part; returns what goes back."
  @spec done(t, reference, term) :: {t, non_neg_integer}
  def done(open, ref, part) do
    case open do
      %{^ref => {cost, parts}} ->
        parts = MapSet.delete(parts, part)

        if MapSet.size(parts) == 0,
          do: {Map.delete(open, ref), cost},
          else: {Map.put(open, ref, {cost, parts}), 0}

      _ ->
        {open, 0}
    end
  end

  @doc "A process died, and its mailbox with it; returns what goes back."
  @spec died(t, term) :: {t, non_neg_integer}
  def died(open, part) do
    Enum.reduce(Map.keys(open), {open, 0}, fn ref, {open, back} ->
      {open, more} = done(open, ref, part)
      {open, back + more}
    end)
  end
end
