defmodule Brain.Roster.Snapshot do
  @moduledoc """
  The progress of one snapshot: which page is next, after which key, and the changes kept meanwhile.
  """

  alias Brain.Roster

  # One repair may keep this many changes; beyond it the snapshot begins anew.
  @most_buffered 10_000

  @type key :: {Roster.room(), Roster.user(), Roster.session()}

  @type t :: %__MODULE__{
          request: term,
          floor: Roster.seq() | :back,
          number: non_neg_integer,
          seq: Roster.seq() | nil,
          from: key | :start,
          buffer: [{pos_integer, [Roster.change()]}],
          buffered: non_neg_integer
        }

  @enforce_keys [:request, :floor]
  defstruct [:request, :floor, number: 0, seq: nil, from: :start, buffer: [], buffered: 0]

  @spec new(term, Roster.seq() | :back) :: t
  def new(request, floor), do: %__MODULE__{request: request, floor: floor}

  @doc "Whether a page was applied, so that the table is between two versions."
  @spec begun?(t) :: boolean
  def begun?(snapshot), do: snapshot.number > 0

  @doc "Keeps changes until the snapshot is whole."
  @spec buffer(t, pos_integer, [Roster.change()]) :: {:ok, t} | :overflow
  def buffer(snapshot, first, changes) do
    buffered = snapshot.buffered + length(changes)

    if buffered > @most_buffered do
      :overflow
    else
      {:ok, %{snapshot | buffered: buffered, buffer: [{first, changes} | snapshot.buffer]}}
    end
  end

  @doc "What was kept, in the order of its numbers."
  @spec buffered(t) :: [{pos_integer, [Roster.change()]}]
  def buffered(snapshot), do: Enum.sort_by(snapshot.buffer, &elem(&1, 0))

  @doc "Checks a page against the ones before it and says which range it replaces."
  @spec accept(t, non_neg_integer, Roster.seq(), Roster.seq(), boolean, [Roster.entry()]) ::
          {:ok, t, from :: key | :start, to :: key | :end} | :broken
  def accept(snapshot, number, seq, at, last?, entries) do
    with true <- number == snapshot.number,
         true <- snapshot.seq in [nil, seq],
         # Changes applied since the request can have overtaken the snapshot.
         true <- snapshot.floor == :back or seq >= at,
         {:ok, to} <- ascending(entries, snapshot.from) do
      to = if last?, do: :end, else: to
      from = snapshot.from
      next = if to == :end, do: from, else: to
      {:ok, %{snapshot | number: number + 1, seq: seq, from: next}, from, to}
    else
      _ -> :broken
    end
  end

  defp ascending([], from), do: {:ok, from}

  defp ascending([{room, user, session, _, _, _, _, _} | rest], from) do
    key = {room, user, session}
    if from == :start or key > from, do: ascending(rest, key), else: :error
  end

  defp ascending(_, _), do: :error
end
